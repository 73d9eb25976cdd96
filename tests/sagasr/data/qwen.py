"""A Qwen2-Audio that tests can have: the published classes and files, tiny and random."""

from pathlib import Path

import torch

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|audio_eos|>", "<|AUDIO|>"]
TEXTS = ["a dog barks in the rain", "a man speaks", "music plays with a piano", "Generate the caption in English:"]


def write_qwen(folder: Path) -> Path:
    """Write Qwen2-Audio with two layers of 32 as published: network, feature extractor and tokenizer apart."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GenerationConfig,
        PreTrainedTokenizerFast,
        Qwen2AudioConfig,
        Qwen2AudioEncoderConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2Config,
        WhisperFeatureExtractor,
    )

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL[3:]
    )
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16, return_attention_mask=True).save_pretrained(folder)
    audio = Qwen2AudioEncoderConfig(
        num_mel_bins=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, d_model=32,
        initializer_range=0.3,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.3, bos_token_id=0, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = Qwen2AudioConfig(
        audio_config=audio, text_config=text, audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Qwen2AudioForConditionalGeneration(config)
    # As published: sampling is on, which captions must not follow.
    network.generation_config = GenerationConfig(do_sample=True, top_p=0.5, eos_token_id=[2], pad_token_id=0)
    network.save_pretrained(folder)
    return folder
