package recipes

import (
	"slices"
	"strings"
)

// theirs are options of TRL, verl, OpenRLHF and PEFT under names that a plan does not
// have: what to write instead, if anything, and what more there is to say.
var theirs = []struct{ names, option, remark string }{
	{"lr actor_learning_rate", "learning_rate", ""},
	{"lr_scheduler lr_decay_style", "lr_scheduler_type", ""},
	{"warmup_ratio lr_warmup_steps lr_warmup_ratio lr_warmup_steps_ratio", "warmup_steps", "optimizer steps"},
	{"max_steps num_train_epochs total_epochs num_episodes total_training_steps", "steps", ""},
	{"ppo_epochs max_epochs", "num_iterations", ""},
	{"n n_samples_per_prompt group_size num_samples", "num_generations", ""},
	{"rollout_batch_size generation_batch_size per_device_train_batch_size per_gpu_train_batch_size", "prompts_per_step", "groups of num_generations; mini_batch_size is completions per optimizer step"},
	{"train_batch_size", "prompts_per_step", "as verl means it; OpenRLHF's is mini_batch_size, completions per optimizer step"},
	{"ppo_mini_batch_size", "mini_batch_size", "completions per optimizer step, where verl counts prompts"},
	{"gradient_accumulation_steps ppo_micro_batch_size ppo_micro_batch_size_per_gpu micro_train_batch_size ppo_max_token_len_per_gpu", "max_tokens_per_micro_batch", "whatever its value, the gradients of a mini-batch add up"},
	{"max_new_tokens max_response_length generate_max_len max_length", "max_completion_length", ""},
	{"max_prompt_length prompt_max_len", "skip_bad", "true leaves out what is longer than the policy's context; there is no other bound of prompts"},
	{"use_vllm vllm_mode vllm_server_base_url vllm_server_host vllm_server_port vllm_num_engines", "rollout.endpoints", `such as rollout.engine=openai 'rollout.endpoints=["http://host:8000"]'; nothing is needed for the worker's own engine`},
	{"vllm_importance_sampling_correction", "importance_sampling_correction", ""},
	{"vllm_importance_sampling_cap", "importance_sampling_cap", ""},
	{"vllm_importance_sampling_mode", "importance_sampling_mode", ""},
	{"bf16 fp16 torch_dtype dtype", "backend", "xla:cuda,bf16 for products in bfloat16; weights and optimizer are float32"},
	{"use_peft lora_rank r", "lora_r", "the rank of the adapters, 0 for none"},
	{"target_modules lora_target", "lora_target_modules", ""},
	{"lora_dropout", "", "adapters have no dropout; leave it out"},
	{"load_in_4bit load_in_8bit", "", "weights are not quantized; leave it out"},
	{"kl_coef init_kl_coef kl_loss_coef kl_beta", "beta", ""},
	{"clip_ratio clip_ratio_low cliprange eps_clip eps_clip_low epsilon_low", "epsilon", ""},
	{"clip_ratio_high eps_clip_high", "epsilon_high", ""},
	{"max_norm grad_clip clip_grad", "max_grad_norm", ""},
	{"loss_agg_mode", "loss_type", "grpo, bnpo, dapo or dr_grpo"},
	{"adv_estimator advantage_estimator", "", "the recipe says it: `gradus recipes` lists them"},
	{"norm_adv_by_std_in_grpo", "scale_rewards", "group, batch or none"},
	{"filter_groups dynamic_filtering", "max_rollout_rounds", "rounds of posing new problems in place of dropped groups"},
	{"staleness_threshold", "max_staleness", ""},
	{"reward_funcs reward_fn reward_model remote_rm_url custom_reward_function", "verifier", "`gradus data import` can also give every problem its own"},
	{"model_name_or_path model_path model_name pretrain", "policy", "a Hugging Face folder on this machine, or a Ref"},
	{"dataset_name train_files prompt_data dataset", "problems", "a name that `gradus data list` shows"},
	{"val_files eval_dataset", "eval_problems", ""},
	{"apply_chat_template", "chat_template", ""},
	{"eval_steps eval_strategy test_freq", "evaluation.every", "steps"},
	{"save_steps save_strategy save_freq save_total_limit ckpt_path", "", "every step is kept in the store; leave it out"},
	{"output_dir save_path logging_dir default_local_dir", "", "all is kept in the store; `gradus policy export` writes a folder"},
	{"report_to logging_steps use_wandb wandb_project project_name log_completions", "", "`gradus data export --run RUN --metrics -o curves.csv` has the curves, and every completion is kept in the store; leave it out"},
	{"run_name experiment_name", "", "a run is named by --id"},
	{"tensor_parallel_size num_gpus n_gpus_per_node actor_num_gpus_per_node deepspeed fsdp", "", "workers say what they run on: `gradus worker --help`"},
}

// Theirs says what to write instead of an option as TRL, verl, OpenRLHF or PEFT name
// it, without or with what stands before its last dot; "" for what is none.
func Theirs(key string) string {
	name := key[strings.LastIndex(key, ".")+1:]
	for _, t := range theirs {
		switch {
		case !slices.Contains(strings.Fields(t.names), name):
		case t.option == "":
			return t.remark
		case t.remark == "":
			return "write " + t.option
		default:
			return "write " + t.option + ": " + t.remark
		}
	}
	return ""
}
