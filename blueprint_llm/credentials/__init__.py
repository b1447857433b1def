"""Keys of providers: where they are, whether that place is safe, and how they never leave it by accident."""

from blueprint_llm.config import providers
from blueprint_llm.config.providers import is_loopback
from blueprint_llm.credentials.keychain import Keychain
from blueprint_llm.credentials.manager import CredentialsManager
from blueprint_llm.credentials.sources import Credential, Finding, KeyInfo
from blueprint_llm.secret import Secret

__all__ = ["Credential", "CredentialsManager", "Finding", "KeyInfo", "Keychain", "Secret", "is_loopback", "providers"]
