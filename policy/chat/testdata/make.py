"""Writes what transformers makes of the templates of this folder.

    pip install transformers==5.23.0 jinja2 && python make.py

qwen2.5.jinja is that of Qwen2.5 (Apache 2.0); the others are written for this.
"""

import json
import pathlib

from transformers.utils.chat_template_utils import render_jinja_template

HERE = pathlib.Path(__file__).parent
TURNS = [
    [("user", "What is 2 < 3 & 4?")],
    [("system", " Be brief.\n"), ("user", "  Größe? 'x' \"y\" {{ z }}\n")],
    [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c\n\nd")],
    [("system", ""), ("user", ""), ("assistant", "e")],
]


def main():
    cases = []
    for path in sorted(HERE.glob("*.jinja")):
        for turns in TURNS:
            for prompt in (False, True):
                messages = [{"role": r, "content": c} for r, c in turns]
                text = render_jinja_template([messages], chat_template=path.read_text(), add_generation_prompt=prompt, bos_token="<s>")[0][0]
                cases.append({"template": path.name, "turns": turns, "prompt": prompt, "text": text})
    (HERE / "expected.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")


main()
