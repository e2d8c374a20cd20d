"""Simon Willison's ``llm`` on the command line, with both dialects: ``llm.py URL MODEL``."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

URL, MODEL = sys.argv[1:]
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["happy", "sad"]}, "tired": {"type": "boolean"}},
    "required": ["mood", "tired"],
    "additionalProperties": False,
}
MODELS = f"""
- model_id: edge
  model_name: {MODEL}
  api_base: {URL}/v1
  api_key_name: edge
  supports_schema: true
  supports_tools: true
"""
TOOLS = '''
def get_weather(city: str) -> str:
    """What the weather is like."""
    return "It rains."
'''


def llm(*arguments: str) -> str:
    program = Path(sys.executable).with_name("llm")
    process = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


with tempfile.TemporaryDirectory() as folder:
    Path(folder, "extra-openai-models.yaml").write_text(MODELS)
    Path(folder, "keys.json").write_text('{"edge": "-"}')
    os.environ |= {"LLM_USER_PATH": folder, "OLLAMA_HOST": URL}
    models = llm("models")
    # Each start of it takes more than a second.
    for model in ("edge", f"ollama/{MODEL}"):  # the second one from llm-ollama
        assert model in models, models
        assert "edge-llm" in llm("-m", model, "-o", "temperature", "0", "Who are you?"), model
        answer = json.loads(llm("-m", model, "How are you?", "--schema", json.dumps(SCHEMA)))
        assert answer["mood"] in ("happy", "sad"), model
    assert llm("-c", "And what else?", "-s", "Be short.", "--no-stream")
    llm("-m", "edge", "--functions", TOOLS, "What is the weather like?")
