"""One cheap call to every provider: what `check --online` and `keys check --online` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blueprint_llm.cli.options import open_client, provider_names
from blueprint_llm.cli.progress import Progress
from blueprint_llm.credentials import CredentialsManager, Finding
from blueprint_llm.errors import BlueprintError

if TYPE_CHECKING:
    from blueprint_llm.client import SyncLLMClient
    from blueprint_llm.config import Config


def call_providers(config: Config, credentials: CredentialsManager | None = None) -> list[Finding]:
    """Ask each provider for one token, past the cache; a finding each."""
    names = provider_names(config)
    findings = []
    with open_client(config, credentials_manager=credentials) as client, Progress("asking the providers") as progress:
        for n, name in enumerate(names, 1):
            findings.append(_call(client, name))
            progress.update(n, len(names))
    return findings


def _call(client: SyncLLMClient, name: str) -> Finding:
    request = {"messages": [{"role": "user", "content": "ping"}], "provider": name, "max_tokens": 1, "num_retries": 0}
    try:
        client.chat({**request, "fallback": False, "cache": False})
    except BlueprintError as error:
        return Finding(subject=f"{name} (online)", ok=False, message=str(error))
    return Finding(subject=f"{name} (online)", ok=True, message="answered")
