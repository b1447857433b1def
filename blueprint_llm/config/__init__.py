"""From one YAML file to one frozen `Config`: LiteLLM's keys as they are, and the block `blueprint:`."""

from __future__ import annotations

from blueprint_llm.config.blocks import Blueprint, ProviderConfig
from blueprint_llm.config.load import load_config
from blueprint_llm.config.model import Config, Deployment

__all__ = ["Blueprint", "Config", "Deployment", "ProviderConfig", "load_config"]
