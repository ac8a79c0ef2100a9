"""What other trainers and scripts call the keys of a recipe, so that an unknown key can be told by its name here."""

from __future__ import annotations

from collections.abc import Mapping

from core.recipe.faults import KeyPath

#: The key here -> names for it elsewhere (transformers, TRL, LLaMA-Factory, xtuner, detectron2, torchrun).
NAMES = {
    "optimizer.lr": "learning_rate base_lr init_lr peak_lr max_lr",
    "optimizer.schedule": "lr_scheduler_type lr_scheduler scheduler lr_schedule",
    "optimizer.warmup": "warmup_ratio warmup_steps warmup_iters warmup_steps_ratio",
    "optimizer.betas": "adam_beta1 adam_beta2 beta1 beta2 adam_betas",
    "optimizer.eps": "adam_epsilon adam_eps epsilon",
    "optimizer.weight_decay": "weight_decay wd",
    "optimizer.use": "optim optimizer_type",
    "train.updates": "max_steps max_iters max_iter num_steps steps iterations total_steps num_train_epochs epochs num_epochs max_epochs",
    "train.batch_size": "per_device_train_batch_size per_gpu_train_batch_size train_batch_size micro_batch_size batch bs ims_per_batch",
    "train.accumulate": "gradient_accumulation_steps accumulation_steps grad_accum accumulative_counts accumulate_grad_batches",
    "train.clip_norm": "max_grad_norm clip_grad_norm gradient_clipping grad_clip max_norm gradient_clip_val",
    "train.precision": "bf16 fp16 tf32 amp mixed_precision half use_amp autocast",
    "train.workers": "dataloader_num_workers num_workers n_workers",
    "train.prefetch_gib": "dataloader_prefetch_factor prefetch_factor",
    "train.activation_checkpointing": "gradient_checkpointing use_gradient_checkpointing checkpoint_activations",
    "train.compile": "torch_compile",
    "train.group_pictures": "group_by_length",
    "train.evaluate": "do_eval disable_internal_eval eval_on_start",
    "train.evaluate_every": "eval_steps eval_interval val_interval eval_every evaluation_interval val_check_interval eval_period",
    "train.patience": "early_stopping_patience early_stopping",
    "checkpoint.every": "save_steps save_interval save_every checkpoint_interval checkpoint_period",
    "checkpoint.keep": "save_total_limit max_keep_ckpts keep_checkpoints",
    "checkpoint.best": "metric_for_best_model save_best load_best_model_at_end",
    "checkpoint.best_is": "greater_is_better",
    "output": "output_dir work_dir out_dir save_dir log_dir logging_dir default_root_dir",
    "name": "run_name exp_name experiment_name experiment",
    "seed": "data_seed random_seed manual_seed set_seed",
    "start_from": "load_from init_from pretrained_weights init_checkpoint",
    "model.checkpoint": "model_name_or_path model_path pretrained_model_name_or_path",
    "model.train": "trainable_modules unfreeze",
    "model.lora.r": "lora_r lora_rank",
    "model.lora.alpha": "lora_alpha",
    "model.lora.dropout": "lora_dropout",
    "model.max_tiles": "max_dynamic_patch",
    "teacher.decay": "ema_decay ema_momentum",
    "gradient.scope": "surgery_per_group",
    "gradient.when": "only_on_conflict",
    "track": "report_to log_with loggers",
    "launch.device": "no_cuda use_cpu cuda gpu",
    "launch.processes": "nproc_per_node num_gpus n_gpus gpus world_size num_processes",
    "launch.strategy": "deepspeed ddp fsdp distributed_backend accelerator",
    "launch.timeout_s": "ddp_timeout dist_timeout",
}
#: What has no key here -> what to do.
NONE = {
    "logging_steps log_interval log_every log_period logging_first_step": "every update is logged",
    "resume_from resume_from_checkpoint resume auto_resume": "the command's option --resume RUN_FOLDER goes on with a run",
}
_REMARKS = {
    "num_train_epochs epochs num_epochs max_epochs": ", in optimizer steps; one pass takes samples / (batch_size x accumulate x processes)",
    "warmup_steps warmup_iters": ", as a share of the updates",
    "adam_beta1 adam_beta2 beta1 beta2": ", e.g. [0.9, 0.999]",
    "bf16 fp16 amp mixed_precision half use_amp autocast": ", e.g. bf16; there is no fp16",
    "no_cuda use_cpu cuda gpu": ", cpu or cuda",
    "greater_is_better": ", highest or lowest",
}


def _by_word(table: Mapping[str, str]) -> dict[str, str]:
    return {word: text for words, text in table.items() for word in words.split()}


_KEY = {word: key for key, words in NAMES.items() for word in words.split()}
_NONE, _REMARK = _by_word(NONE), _by_word(_REMARKS)


def key_of(name: str) -> str:
    """The key here of another trainer's name, empty for a name that is unknown."""
    return _KEY.get(_word(name), "")


def here_it_is(name: str, accepts: Mapping[KeyPath, tuple[str, ...]]) -> str:
    """``: here it is train.updates``, or what else is to be said of another trainer's name; empty for a name that is unknown.

    ``accepts``: the keys that each mapping of this recipe takes; a key that is not among them is not named.
    """
    word = _word(name)
    if word in _NONE:
        return f": {_NONE[word]}"
    *parent, key = key_of(name).split(".")
    taken = accepts.get(tuple(parent))
    if taken is not None and key in (*taken, "use"):
        return f": here it is {_KEY[word]}{_REMARK.get(word, '')}"
    return ""


def _word(name: str) -> str:
    return name.strip("-").replace("-", "_").lower()
