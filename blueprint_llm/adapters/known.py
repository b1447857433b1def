"""The names that the installed LiteLLM takes, by its own signatures and models: loading it takes seconds."""

from __future__ import annotations

import functools
import inspect

from blueprint_llm.adapters.litellm import module
from blueprint_llm.config.sections import Known

# What LiteLLM reads of a deployment and declares nowhere.
UNDECLARED = frozenset({"vertex_ai_project", "vertex_ai_location", "vertex_ai_credentials", "serviceTier"})


@functools.cache
def litellm_names() -> Known:
    """Return LiteLLM's names for what stands in a configuration."""
    litellm = module()
    models, utils = litellm.types.router, litellm.types.utils
    router = frozenset(inspect.signature(litellm.Router).parameters) - {"model_list"}
    calls = (litellm.completion, litellm.embedding, litellm.responses, litellm.image_generation, litellm.speech)
    asked = (name for call in calls for name in inspect.signature(call).parameters)
    return Known(
        entry=frozenset(models.Deployment.model_fields) | {"rpm", "tpm"},
        params=frozenset(models.LiteLLM_Params.model_fields).union(asked, utils.all_litellm_params, UNDECLARED),
        info=frozenset(models.ModelInfo.model_fields).union(utils.ModelInfoBase.__annotations__),
        router=router,
        module=router.union(filter(is_setting, vars(litellm))) | {"cache_params"},
    )


def is_setting(name: str) -> bool:
    """Return True for an attribute of LiteLLM's module that is neither private nor one of its functions or parts."""
    value = vars(module()).get(name, inspect)
    return not name.startswith("_") and not callable(value) and not inspect.ismodule(value)
