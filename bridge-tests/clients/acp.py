"""The official Python SDK as an editor of gander: an older client, which refuses updates that it does not know.

Usage: python acp.py WORK STAGE SESSION COMMAND...
  STAGE  "first": everything in a new session, prints its id; "second": loads and resumes SESSION
"""

import asyncio
import json
import os
import sys

# This file has the package's name.
sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != os.path.dirname(os.path.abspath(__file__))]

import acp  # noqa: E402
from acp import schema  # noqa: E402
from acp.stdio import spawn_agent_process  # noqa: E402


class Editor:
    """What the agent may ask of an editor."""

    def __init__(self):
        self.seen = []
        self.forms = []
        self.questions = 0
        self.wanted = "allow_once"

    async def request_permission(self, session_id, tool_call, options, **kwargs):
        self.questions += 1
        assert tool_call.title, "the question speaks for itself"
        option = next(option for option in options if option.kind == self.wanted)
        return schema.RequestPermissionResponse(
            outcome=schema.AllowedOutcome(outcome="selected", option_id=option.option_id)
        )

    async def create_elicitation(self, message, mode, **kwargs):
        self.forms.append(mode)
        return schema.AcceptElicitationResponse(
            action="accept", content={"name": "Ada Lovelace", "check": True}
        )

    async def complete_elicitation(self, elicitation_id, **kwargs):
        raise AssertionError("no page was opened")

    async def session_update(self, session_id, update, **kwargs):
        self.seen.append((session_id, update))

    def text(self, session_id):
        return "".join(
            update.content.text
            for of, update in self.seen
            if of == session_id and update.session_update == "agent_message_chunk"
        )


async def until(what, probe):
    for _ in range(2000):
        if probe():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


async def main():
    work, stage, known, *command = sys.argv[1:]
    editor = Editor()
    async with spawn_agent_process(
        editor, *command, env=dict(os.environ), use_unstable_protocol=True
    ) as (agent, _process):
        forms = schema.ElicitationCapabilities(form=schema.ElicitationFormCapabilities())
        capabilities = schema.ClientCapabilities(elicitation=forms)
        hello = await agent.initialize(protocol_version=1, client_capabilities=capabilities)
        assert hello.protocol_version == 1, hello
        assert hello.agent_info.name == "gander", hello
        await agent.authenticate(method_id=hello.auth_methods[0].id)

        def prompt(session_id, words):
            block = schema.TextContentBlock(type="text", text=words)
            return agent.prompt(session_id=session_id, prompt=[block])

        if stage == "second":
            await agent.load_session(cwd=work, session_id=known, mcp_servers=[])
            await until("the history", lambda: "hello from python" in editor.text(known))
            await until("its calls", lambda: any(update.session_update == "tool_call" for _, update in editor.seen))
            await until("its end", lambda: editor.seen[-1][1].session_update == "available_commands_update")
            editor.seen.clear()
            await agent.resume_session(cwd=work, session_id=known, mcp_servers=[])
            assert (await prompt(known, "say resumed")).stop_reason == "end_turn"
            assert "hello from python" not in editor.text(known)
            return

        session = await agent.new_session(cwd=work, mcp_servers=[])
        session_id = session.session_id
        assert (await prompt(session_id, "say hello from python")).stop_reason == "end_turn"
        # The SDK hands updates on beside the answers.
        await until("the text", lambda: "hello from python" in editor.text(session_id))

        await agent.set_session_mode(session_id=session_id, mode_id="approve")
        path = os.path.join(work, f"python-{os.getpid()}.txt")
        write = "call developer__write " + json.dumps({"path": path, "content": "x"})
        editor.wanted = "reject_once"
        await prompt(session_id, write)
        assert not os.path.exists(path) and editor.questions == 1
        editor.wanted = "allow_once"
        await prompt(session_id, write)
        assert os.path.exists(path) and editor.questions == 2
        editor.wanted = "allow_always"
        await prompt(session_id, write)
        await prompt(session_id, write)
        assert editor.questions == 3

        await agent.set_config_option(config_id="mode", session_id=session_id, value="auto")
        before = len(editor.text(session_id))
        running = asyncio.ensure_future(prompt(session_id, "slow 100000"))
        await until("the stream", lambda: len(editor.text(session_id)) > before)
        await agent.cancel(session_id=session_id)
        assert (await running).stop_reason == "cancelled"

        modules = os.environ.get("GANDER_TEST_NODE_DIR")
        if modules:
            everything = os.path.join(modules, "@modelcontextprotocol/server-everything/dist/index.js")
            server = schema.McpServerStdio(name="everything", command="node", args=[everything, "stdio"], env=[])
            asking = await agent.new_session(cwd=work, mcp_servers=[server])
            await prompt(asking.session_id, "call everything__trigger-elicitation-request {}")
            assert len(editor.forms) == 1, editor.forms
            await until("the answer's way", lambda: any("Ada Lovelace" in str(update) for _, update in editor.seen))

        listed = await agent.list_sessions(cwd=work)
        assert any(info.session_id == session_id for info in listed.sessions)
        try:
            await prompt("nobody", "say x")
        except acp.RequestError as error:
            assert error.code == -32002, error
        else:
            raise AssertionError("a session that nobody knows")
        print(json.dumps({"sessionId": session_id}))


asyncio.run(main())
