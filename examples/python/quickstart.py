"""Runs one turn with gander and shows it. Usage: quickstart.py [ADDRESS [PROMPT]]; see README.md."""
import os, sys, uuid
from pathlib import Path
import grpc

sys.path.append(str(Path(__file__).parent / "gen"))
from gander.v1 import interaction_service_pb2_grpc, session_service_pb2_grpc, turn_service_pb2_grpc
from gander.v1.interaction_pb2 import InteractionAnswer, PermissionAnswer, PermissionDecision
from gander.v1.interaction_service_pb2 import RespondToInteractionRequest
from gander.v1.session_service_pb2 import CreateSessionRequest
from gander.v1.turn_pb2 import TURN_STATE_COMPLETED, TurnState
from gander.v1.turn_service_pb2 import RunTurnRequest

def connect(address: str = "") -> grpc.Channel:
    """To HOST:PORT or a unix socket. The address of a unix socket is no valid HTTP authority, so one is given."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    address = address or os.environ.get("GANDER_SOCKET") or str(data / "gander/gander.sock")
    target = f"unix:{address}" if address.startswith("/") else address
    return grpc.insecure_channel(target, [("grpc.default_authority", "localhost")] if target != address else [])

def answer(question) -> RespondToInteractionRequest:
    print(f"\n? {question.permission.prompt or 'Run ' + question.permission.tool_call.name}", flush=True)
    said = input("  allow? [y/N] ") if sys.stdin.isatty() else "n"
    kind = "PERMISSION_DECISION_" + ("ALLOW" if said.lower().startswith("y") else "DENY")
    decision = InteractionAnswer(decision=PermissionAnswer(kind=PermissionDecision.Value(kind)))
    return RespondToInteractionRequest(interaction_id=question.interaction_id, answer=decision)

def main(address: str = "", prompt: str = "list the files here") -> int:
    token = os.environ.get("GANDER_TOKEN")  # for TCP; a unix socket knows who you are
    call = {"metadata": [("authorization", f"Bearer {token}")] if token else []}
    with connect(address) as channel:
        sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        turns = turn_service_pb2_grpc.TurnServiceStub(channel)
        interactions = interaction_service_pb2_grpc.InteractionServiceStub(channel)
        new = CreateSessionRequest(working_directory=os.getcwd(), demo_allowed=True)  # works without any model
        session = sessions.CreateSession(new, timeout=10, **call).session
        # After a cut, repeat the call with the same turn_id and after_sequence: nothing is lost, nothing runs twice.
        request = RunTurnRequest(session_id=session.session_id, turn_id=str(uuid.uuid4()))
        request.input.parts.add(text=prompt)
        for event in (response.event for response in turns.RunTurn(request, **call)):
            match event.WhichOneof("payload"):
                case "text_delta":
                    print(event.text_delta.text, end="", flush=True)
                case "item_completed" if event.item_completed.item.WhichOneof("body") == "tool_call":
                    tool = event.item_completed.item.tool_call
                    print(f"\n> {tool.name} {tool.arguments_json}", *(p.text for p in tool.result.parts), sep="\n")
                case "interaction_requested" if event.interaction_requested.interaction.HasField("permission"):
                    reply = answer(event.interaction_requested.interaction)
                    interactions.RespondToInteraction(reply, timeout=10, **call)
                case "turn_ended":
                    turn = event.turn_ended.turn  # OK of the stream says nothing of the turn: its state does
                    print(f"\n[{TurnState.Name(turn.state)}] {turn.error.message}".rstrip())
                    return 0 if turn.state == TURN_STATE_COMPLETED else 1
    return 1

if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:3]))
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
