//! RecipeService. The engine keeps no recipes yet; every RPC says so.

use gander_proto::v1::{self as pb, recipe_service_server::RecipeService};
use tonic::{Request, Response, Status};

use crate::{Api, error::not_implemented};

macro_rules! not_yet {
    ($($method:ident: $name:literal, $request:ident => $response:ident;)*) => {
        #[tonic::async_trait]
        impl RecipeService for Api {$(
            async fn $method(&self, _request: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                Err(not_implemented($name))
            }
        )*}
    };
}

not_yet! {
    list_recipes: "ListRecipes", ListRecipesRequest => ListRecipesResponse;
    get_recipe: "GetRecipe", GetRecipeRequest => GetRecipeResponse;
    save_recipe: "SaveRecipe", SaveRecipeRequest => SaveRecipeResponse;
    delete_recipe: "DeleteRecipe", DeleteRecipeRequest => DeleteRecipeResponse;
    parse_recipe: "ParseRecipe", ParseRecipeRequest => ParseRecipeResponse;
    format_recipe: "FormatRecipe", FormatRecipeRequest => FormatRecipeResponse;
    encode_recipe: "EncodeRecipe", EncodeRecipeRequest => EncodeRecipeResponse;
    decode_recipe: "DecodeRecipe", DecodeRecipeRequest => DecodeRecipeResponse;
    validate_recipe: "ValidateRecipe", ValidateRecipeRequest => ValidateRecipeResponse;
    render_recipe: "RenderRecipe", RenderRecipeRequest => RenderRecipeResponse;
    draft_recipe: "DraftRecipe", DraftRecipeRequest => DraftRecipeResponse;
    set_recipe_command: "SetRecipeCommand", SetRecipeCommandRequest => SetRecipeCommandResponse;
}
