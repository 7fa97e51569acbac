//! The table of prompt styles: how checkpoints from before chat templates were spoken to.
//!
//! Data only; `style` renders it. The texts are what those models were trained on, letter by letter. Invariant: of
//! two styles whose paths match the same checkpoint the first is meant, so the order counts.

use super::style::{Style, System};

/// Every style.
pub(super) const STYLES: &[Style] = &[
    // as in StabilityAI's model card
    Style {
        name: "stablelm-tuned-alpha",
        paths: &["stabilityai*tuned-alpha", "stablelm-tuned-alpha"],
        system: Some(System {
            before: "<|SYSTEM|>",
            own: Some(
                "# StableLM Tuned (Alpha version)\n- StableLM is a helpful and harmless open-source AI language \
                 model developed by StabilityAI.\n- StableLM is excited to be able to help the user, but will \
                 refuse to do anything that could be considered harmful to the user.\n- StableLM is more than \
                 just an information source, StableLM is also able to write poetry, short stories, and make \
                 jokes.\n- StableLM will refuse to participate in anything that could harm a human.",
            ),
            after: "",
        }),
        before: "<|USER|>",
        after: "<|ASSISTANT|>",
        between: "",
        stop: &[&["<|SYSTEM|>"], &["<|ASSISTANT|>"], &["<|USER|>"]],
        ..Style::NONE
    },
    Style {
        name: "redpajama-incite-chat",
        paths: &["togethercomputer*Chat", "RedPajama*Chat"],
        before: "<human>: ",
        after: "\n<bot>:",
        between: "\n",
        stop: &[&["<", "human", ">:"], &["<", "bot", ">:"]],
        ..Style::NONE
    },
    Style {
        name: "redpajama-incite-instruct",
        paths: &["togethercomputer*Instruct", "RedPajama*Instruct"],
        before: "Q: ",
        after: "\nA:",
        between: "\n\n",
        stop: &[&["Q", ":"], &["Question"], &["A", ":"], &["Label", ":"], &["\n", "\n"], &["\n\n"], &["\n\n\n"]],
        ..Style::NONE
    },
    Style {
        name: "falcon-instruct",
        paths: &["falcon*-instruct"],
        system: Some(System { before: "", own: Some("Do not prefix your replies with 'Bot: '"), after: "\n" }),
        before: "User: ",
        after: "\n",
        between: "\n",
        stop: &[&["User", ":"], &["\n", "User"]],
        ..Style::NONE
    },
    // as in lm-sys' FastChat
    Style {
        name: "vicuna",
        paths: &["vicuna", "longchat"],
        system: Some(System {
            before: "",
            own: Some(
                "A chat between a curious user and an artificial intelligence assistant. The assistant gives \
                 helpful, detailed, and polite answers to the user's questions.",
            ),
            after: " ",
        }),
        before: "USER: ",
        after: " ASSISTANT:",
        between: "</s>",
        ..Style::NONE
    },
    // as in Meta's llama
    Style {
        name: "llama-2-chat",
        paths: &["Llama-2*-chat", "llama-2*-chat"],
        lead: "[INST] ",
        system: Some(System {
            before: "<<SYS>>\n",
            own: Some(
                "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, \
                 while being safe.  Your answers should not include any harmful, unethical, racist, sexist, \
                 toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased \
                 and positive in nature.\n\nIf a question does not make any sense, or is not factually \
                 coherent, explain why instead of answering something not correct. If you don't know the answer \
                 to a question, please don't share false information.",
            ),
            after: "\n<</SYS>>\n\n ",
        }),
        before: "",
        after: " [/INST] ",
        between: " </s><s>",
        ..Style::NONE
    },
    Style {
        name: "freewilly2",
        paths: &["FreeWilly2"],
        system: Some(System {
            before: "### System:\n",
            own: Some("This is a system prompt, please behave and help the user."),
            after: "\n\n",
        }),
        before: "### User:\n",
        after: "\n\n### Assistant:\n",
        between: "\n\n",
        ..Style::NONE
    },
    Style {
        name: "platypus",
        paths: &["Platypus"],
        before: "### Instruction:\n\n",
        after: "\n\n### Response:\n",
        between: "\n\n",
        ..Style::NONE
    },
    Style {
        name: "nous-research",
        paths: &["NousResearch"],
        before: "### Instruction:\n",
        after: "\n\n### Response:\n",
        between: "\n\n",
        ..Style::NONE
    },
    Style {
        name: "stablecode-instruct",
        paths: &["stablecode-instruct"],
        before: "###Instruction\n",
        after: "###Response\n",
        between: "\n",
        ..Style::NONE
    },
    Style {
        name: "codellama-instruct",
        paths: &["CodeLlama"],
        start: "<s>",
        lead: "[INST] ",
        system: Some(System { before: "<<SYS>>\n", own: None, after: "\n<</SYS>>\n\n" }),
        before: "",
        after: " [/INST]",
        between: " </s><s>",
        ..Style::NONE
    },
    Style {
        name: "mistral-instruct",
        paths: &["Mistral*Instruct"],
        start: "<s>",
        lead: "[INST] ",
        system: Some(System { before: "<<SYS>>\n", own: None, after: "\n<</SYS>>\n\n" }),
        before: "",
        after: " [/INST]",
        between: "</s>",
        ..Style::NONE
    },
    Style {
        name: "phi-1.5",
        paths: &["phi-1"],
        before: "",
        after: "\n\nAnswer:",
        between: "\n\n",
        stop: &[&["Answer", ":"], &["\n", "Answer", ":"]],
        ..Style::NONE
    },
    Style {
        name: "tinyllama-chat",
        paths: &["TinyLlama*Chat"],
        system: Some(System {
            before: "<|system|>\n",
            own: Some("You are a friendly chatbot who always gives helpful, detailed, and polite answers."),
            after: "</s>\n",
        }),
        before: "<|user|>\n",
        after: "</s>\n<|assistant|>\n",
        between: "</s>\n",
        ..Style::NONE
    },
    Style {
        name: "stablelm-zephyr",
        paths: &["stabilityai/stablelm-zephyr-3b", "stablelm-zephyr-3b"],
        system: Some(System { before: "<|system|>\n", own: None, after: "<|endoftext|>\n" }),
        before: "<|user|>\n",
        after: "<|endoftext|>\n<|assistant|>\n",
        between: "<|endoftext|>\n",
        ..Style::NONE
    },
    Style { name: "phi-2", paths: &["phi-2"], before: "Instruct:", after: "\nOutput:", between: "\n", ..Style::NONE },
    // no checkpoint's by its path, but many speak it
    Style {
        name: "chatml",
        paths: &[],
        system: Some(System { before: "<|im_start|>system\n", own: None, after: "<|im_end|>\n" }),
        before: "<|im_start|>user\n",
        after: "<|im_end|>\n<|im_start|>assistant\n",
        between: "<|im_end|>\n",
        stop: &[&["<|im_end|>"]],
        ..Style::NONE
    },
];
