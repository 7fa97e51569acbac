#!/usr/bin/env python3
"""Writes `chat_templates.json`: chat templates, conversations, and what transformers makes of them.

    cases[]   name, template, bos_token and eos_token (absent where the checkpoint would name none),
              messages, add_generation_prompt, and either text or error: the template's own words when
              it refuses the messages

The templates are written for this file. Each lays a conversation out as the named family's published
template does and uses the same Jinja constructs; what has no bearing on text (tools, images) is left out.
Dates would differ from day to day, so templates only ask whether `strftime_now` is there.

Rerun: python3 tests/golden/chat_templates.py
Made with: Python 3.11, transformers 5.24, jinja2 3.1.6.
"""

import json
from pathlib import Path

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).resolve().parent

LLAMA_2 = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set rest = messages[1:] -%}
    {%- set frame = '<<SYS>>\\n' + messages[0]['content'].strip() + '\\n<</SYS>>\\n\\n' -%}
{%- else -%}
    {%- set rest = messages -%}
    {%- set frame = '' -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Roles must take turns, user first: user/assistant/user/...') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{- bos_token + '[INST] ' + (frame if loop.first else '') + message['content'].strip() + ' [/INST]' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- ' ' ~ message['content'] | trim ~ ' ' ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""

LLAMA_3 = """\
{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = "a day" %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: some month\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("No tools here!") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Only user and assistant, and they alternate!') }}{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}\
{% else %}{{ raise_exception('Unknown role: ' + message['role']) }}{% endif %}{% endfor %}\
"""

MISTRAL_V3 = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] " + (tools | tojson) + "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

QWEN_25 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

QWEN_3 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role here') }}{% endif %}\
{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('user and assistant must alternate') }}{% endif %}\
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}\
"""

GEMMA_3 = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("user and model must alternate") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {{ item['text'] | trim }}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""

PHI_3 = """\
{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}\
{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}\
{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}\
{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}\
"""

PHI_4 = """\
{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}\
{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}\
{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}\
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}\
"""

ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}\
"""

DEEPSEEK_R1 = """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% set ns = namespace(is_first=false, is_tool=false, system_prompt='', is_first_sp=true) %}\
{%- for message in messages %}{%- if message['role'] == 'system' %}\
{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}\
{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}\
{{ bos_token }}{{ ns.system_prompt }}\
{%- for message in messages %}\
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<｜User｜>' + message['content'] }}{%- endif %}\
{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}\
{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}\
{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}{%- endfor -%}\
{% if ns.is_tool %}{{ '<｜tool▁outputs▁end｜>' }}{% endif %}\
{% if add_generation_prompt and not ns.is_tool %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}\
"""

SMOLLM_3 = """\
{%- macro turn(role, content) -%}
{{ "<|im_start|>" ~ role ~ "\\n" ~ content }}
{%- endmacro -%}
{%- set reasoning = 'think' -%}
{%- if messages[0].role == 'system' -%}
    {%- set system = messages[0].content -%}
    {%- if '/no_think' in system -%}{%- set reasoning = 'no_think' -%}{%- endif -%}
    {%- set instructions = system.replace('/no_think', '').replace('/think', '').rstrip() -%}
{%- endif -%}
{{ turn('system', 'Mode: /' + reasoning + '\\n\\n' + (instructions | default('none', true))) ~ '<|im_end|>\\n' }}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'assistant' %}
        {% generation %}
        {{- turn('assistant', message.content.lstrip('\\n')) + '<|im_end|>\\n' -}}
        {% endgeneration %}
    {%- else %}
        {{- turn(message.role, message.content) + '<|im_end|>\\n' -}}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- turn('assistant', '') }}{%- endif %}
"""

IDIOMS = {
    "string methods": "{{ ' aXb '.strip().lower() }}|{{ 'a-b-c'.split('-', 1) }}|{{ 'a-b-c'.rsplit('-', 1) }}|"
    "{{ ' a b  c '.rsplit() }}|{{ ' a b  c '.rsplit(none, 1) }}|{{ 'k=v'.partition('=') | list }}|{{ 'kv'.partition('=')[0] }}|{{ 'a=b=c'.rpartition('=')[0] }}|{{ 'kv'.rpartition('=')[2] }}|{{ 'abc'.removeprefix('a').removesuffix('c') }}|{{ 'ab'.title() }}|"
    "{{ 'x'.join(['a', 'b']) }}|{{ 'abab'.count('ab') }}|{{ 'abab'.find('b') }}|{{ 'abc'.endswith(('c', 'd')) }}|"
    "{{ '{} and {}'.format('a', 2) }}|{{ 'a\\nb'.splitlines() }}|{{ 'a b  c'.split() }}|{{ 'xxaxx'.strip('x') }}",
    "indexing": "{{ 'hello'[0] }}{{ 'hello'[-1] }}{{ 'hello'[1:3] }}{{ 'hello'[::-1] }}{{ [1, 2, 3][-2:] }}{{ [1, 2, 3][::-1] }}",
    "operators": "{{ 'a' * 3 }}|{{ [1] + [2] }}|{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ 7 / 2 }}|"
    "{{ 'b' in 'abc' }}{{ 'k' in {'k': 1} }}{{ 'x' not in ['y'] }}|{{ 1 < 2 < 3 }}|{{ 'a' if false }}|{{ not none }}",
    "literals": "{{ True }}{{ true }}{{ None }}{{ none }}{{ 1.0 }}{{ [1, 'a', none, true] }}{{ {'a': 'b'} }}{{ (1, 2) }}{{ \"it's\" }}{{ [\"it's\"] }}",
    "filters": "{{ [3, 1, 2] | sort | join(',') }}|{{ ['a', 'b'] | map('upper') | list }}|{{ 'abc' | capitalize }}|"
    "{{ messages | map(attribute='role') | join(' ') }}|{{ messages | rejectattr('role', 'equalto', 'user') | list | length }}|"
    "{{ {'b': 1, 'a': 2} | dictsort }}|{{ nothing | default('d') }}|{{ '' | default('e', true) }}|{{ [1, 2] | last }}|"
    "{{ 'a\\nb' | indent(2) }}|{{ 'x' | string }}|{{ '3' | int + 1 }}|{{ [1, 2, 3] | sum }}|{{ ' a ' | trim }}|"
    "{{ 'a-b' | replace('-', '+') }}|{{ {'a': 1} | items | list }}|{{ [1, 1, 2] | unique | list }}|{{ 'abc' | first }}",
    "tests": "{{ 'a' is string }}{{ [] is sequence }}{{ {} is mapping }}{{ 'a' is iterable }}{{ 1 is number }}{{ none is none }}"
    "{{ true is boolean }}{{ x is undefined }}{{ messages is defined }}{{ 3 is odd }}{{ 1 is integer }}{{ 'a' is eq 'a' }}{{ 1 is in [1] }}{{ false is false }}",
    "json": "{{ {'a': [1, 2.5, none, true], 'é': '<&>'} | tojson }}|{{ [{'b': 1, 'a': {}}] | tojson(indent=4) }}|"
    "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}|{{ messages | tojson(ensure_ascii=true) }}|{{ [1e20, 1.5e-7, 0.0001, 123456.5, -2.5e300] | tojson }}|{{ 'a\\u2028b' | tojson }}",
    "loops": "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}"
    "{% if loop.previtem is defined %}{{ loop.previtem.role }}{% endif %}{% if loop.nextitem is defined %}{{ loop.nextitem.role }}{% endif %};"
    "{% else %}none{% endfor %}{% for i in range(1, 4) %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}"
    "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}"
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}{% for a, b in [(1, 2)] %}{{ a + b }}{% endfor %}",
    "scopes": "{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}{% set ns = namespace(a=1, b='') %}"
    "{% for m in messages %}{% set ns.a = ns.a + 1 %}{% set ns.b = ns.b ~ m.role[0] %}{% endfor %}{{ ns.a }}{{ ns.b }}"
    "{% set block %}in {{ x }}{% endset %}{{ block }}{% with y = 3 %}{{ y }}{% endwith %}{% macro f(a, b='d') %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(1, b=2) }}"
    "{% set d = dict(a=1, b=2) %}{{ d.a }}{{ d['b'] }}{{ d.get('c', 'none') }}{{ d.keys() | list }}",
    "white space": "a\n  {% if true %}\n  b\n  {%- endif %}\n\n  {#- gone -#}\n  {{- 'c' -}}  \n d {#+ kept #}\n{% raw %}{{ x }}{% endraw %}\n\n",
}

SYSTEM = {"role": "system", "content": " Be brief. "}
ASK = {"role": "user", "content": " Why is {sky} \"blue\"? "}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n Rayleigh "}
MORE = {"role": "user", "content": "And é < 🙂?"}

TURNS = {
    "one turn": [ASK],
    "two turns": [ASK, ANSWER, MORE],
    "a system message": [SYSTEM, ASK, ANSWER, MORE],
    "out of turn": [ASK, MORE],
    "a reply at the end": [ASK, ANSWER],
}

# name, template, BOS, EOS
LAYOUTS = [
    ("llama-2", LLAMA_2, "<s>", "</s>"),
    ("llama-3", LLAMA_3, "<|begin_of_text|>", "<|eot_id|>"),
    ("mistral", MISTRAL, "<s>", "</s>"),
    ("mistral v3", MISTRAL_V3, "<s>", "</s>"),
    ("qwen2.5", QWEN_25, None, "<|im_end|>"),
    ("qwen3", QWEN_3, None, "<|im_end|>"),
    ("gemma", GEMMA, "<bos>", "<eos>"),
    ("gemma 3", GEMMA_3, "<bos>", "<eos>"),
    ("phi-3", PHI_3, "<s>", "<|endoftext|>"),
    ("phi-4", PHI_4, "<|endoftext|>", "<|im_end|>"),
    ("zephyr", ZEPHYR, "<s>", "</s>"),
    ("deepseek-r1", DEEPSEEK_R1, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    ("smollm3", SMOLLM_3, None, "<|im_end|>"),
]


def case(name, template, bos, eos, messages):
    prompt = messages[-1]["role"] == "user"
    tokens = {key: text for key, text in [("bos_token", bos), ("eos_token", eos)] if text is not None}
    found = {"name": name, "template": template, **tokens, "messages": messages, "add_generation_prompt": prompt}
    try:
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=template, add_generation_prompt=prompt, **tokens
        )
        return {**found, "text": rendered[0]}
    except jinja2.exceptions.TemplateError as error:
        # only what a template raises itself: another error here is a mistake in this file
        assert type(error) is jinja2.exceptions.TemplateError, f"{name}: {error!r}"
        return {**found, "error": str(error)}


def main():
    cases = [
        case(f"{name}: {turns}", template, bos, eos, messages)
        for name, template, bos, eos in LAYOUTS
        for turns, messages in TURNS.items()
    ]
    cases += [case(f"idioms: {name}", template, "<s>", None, [ASK, ANSWER]) for name, template in IDIOMS.items()]
    path = HERE / "chat_templates.json"
    path.write_text(json.dumps({"cases": cases}, ensure_ascii=False, indent=1) + "\n")
    print(f"{path.name}: {len(cases)} cases, {sum('error' in case for case in cases)} of them errors")


if __name__ == "__main__":
    main()
