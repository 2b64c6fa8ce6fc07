#include "training_flags.h"

#include "optimizers.h"

#include <rora/training/lora_fa.h>

#include <algorithm>
#include <charconv>

namespace rora::cli {

Flag add_checkpointing(Flags& flags, Checkpointing& value) {
  return flags.choice<Checkpointing>(
      "checkpointing", value,
      {{"none", Checkpointing::kNone}, {"selective", Checkpointing::kSelective}, {"full", Checkpointing::kFull}},
      "What backward computes again to save memory: selective, norms and the MLP's product of gate and up; full, whole "
      "layers. Results are the same");
}

void TrainingFlags::add_data(Flags& flags, bool eval_is_required) {
  flags
      .add(
          "data", data, "Files of records to train on, JSON or JSONL: alpaca, prompt-completion, chat, text, input_ids")
      .required();
  flags.add(
      "data-weights", data_weights,
      "A number for each file of --data, such as 2,0.5: its examples twice, every second one (default: 1 for all)",
      ',');
  prompts.add_columns(flags);
  flags.add("output", output, "The folder to write").required();
  const std::string description = "Files to validate on; the best weights are kept then";
  Flag eval = flags.add("eval-data", eval_data, description + (eval_is_required ? "" : " (default: none)"));
  if (eval_is_required) {
    eval.required();
  }
}

void TrainingFlags::add(Flags& flags) {
  flags.add("lr", lr, "Learning rate after warm-up").at_least(0.0);
  add_without_lr(flags);
}

void TrainingFlags::add_without_lr(Flags& flags) {
  flags.choice<Schedule>(
      "schedule", schedule,
      {{"constant", Schedule::kConstant}, {"linear", Schedule::kLinear}, {"cosine", Schedule::kCosine}},
      "How the learning rate goes on after warm-up; linear and cosine end at 0");
  flags.add("warmup-steps", warmup_steps, "Steps over which the learning rate rises from 0").between(0, kMaxCount);
  Flag by_epochs = flags.add("epochs", epochs, "How often the data is gone through").between(1, kMaxCount);
  flags.add("max-steps", max_steps, "Optimiser steps; the data repeats as needed (default: by --epochs)")
      .between(1, kMaxCount)
      .excludes(by_epochs);
  flags.add("batch-size", batch_size, "Examples a batch; rows a batch when packing").between(1, kMaxCount);
  flags.add("grad-accum", grad_accum, "Batches whose gradients make one step, weighted by labelled tokens")
      .between(1, kMaxCount);
  flags.add("max-length", max_length, "Longer examples are cut to so many tokens; also the length of packed rows")
      .between(2, kMaxCount);
  flags.add("weight-decay", weight_decay, "Decoupled weight decay").at_least(0.0);
  flags.add("clip", clip, "Norm to which gradients are clipped; 0: off").at_least(0.0);
  flags.add("seed", seed, "Decides initial weights, data order and dropout").at_least(0);
  flags.add("save-every", save_every, "Steps between checkpoints; 0: only where the run is stopped")
      .between(0, kMaxCount);
  flags.add("eval-every", eval_every, "Steps between validations; 0: after each epoch").between(0, kMaxCount);
  flags
      .add("early-stopping-patience", early_stopping_patience, "Validations without a gain that end training; 0: never")
      .between(0, kMaxCount);
  flags.add("resume", resume, "Go on from the last checkpoint in --output; afresh where there is none (default: off)");
  flags.add("packing", packing, "Several examples a row, which do not see each other (default: off)");
  flags.choice<bool>(
      "shuffle", shuffle, {{"on", true}, {"off", false}},
      "A new order each epoch, of batches of like length; off: the file's order");
  const Flag kept = add_checkpointing(flags, checkpointing);
  flags.add("activation-checkpointing", activation_checkpointing, "The same as --checkpointing full (default: off)")
      .excludes(kept);
  flags.add(
      "cuda-graph", cuda_graph,
      "Forward and backward by CUDA graphs where batches are of like shape; needs --device cuda (default: off)");
  prompts.add_template(flags);
  prompts.add_format(flags);
  flags.add(
      "dry-run", dry_run,
      "Check everything, show what would be done and the memory it takes, write nothing (default: off)");
}

void TrainingFlags::add_fine_tuning(Flags& flags) {
  flags.add("lr-ratio-b", lr_ratio_b, "How many times as fast B and magnitudes learn (LoRA+); 1: alike").positive();
  flags.add("train-on-inputs", train_on_inputs, "Labels on the prompt as well as the answer (default: off)");
}

void TrainingFlags::add_optimizer(Flags& flags) {
  flags.choice("optimizer", optimizer, optimizer_choices(), "How updates are made");
}

void TrainingFlags::prepare_optimizer(const torch::nn::Module& model, bool clip_given) {
  const NamedOptimizer& chosen = find_optimizer(optimizer);
  if (chosen.reads_raw_gradients && !clip_given) {
    clip = 0.0;
  }
  if (chosen.freezes_a) {
    freeze_a(model);
  }
}

void TrainingFlags::check() const {
  if (packing && shuffle && !max_steps && epochs > TrainerOptions::kMaxPackedEpochs) {
    throw UsageError(
        "--epochs over " + std::to_string(TrainerOptions::kMaxPackedEpochs) +
        " are not counted ahead with --packing, which fills other rows each time: --max-steps says how long");
  }
  if (eval_data.empty() && eval_every > 0) {
    throw UsageError("--eval-every needs --eval-data");
  }
  if (eval_data.empty() && early_stopping_patience > 0) {
    throw UsageError("--early-stopping-patience needs --eval-data");
  }
}

void TrainingFlags::check_reach(const ParameterTable& parameters, const std::string& method) const {
  const std::vector<ParameterRange>& groups = parameters.groups();
  const bool reaches =
      std::any_of(groups.begin(), groups.end(), [](const ParameterRange& each) { return each.group.lr_factor != 1.0; });
  if (lr_ratio_b != 1.0 && !reaches) {
    throw UsageError("--lr-ratio-b: neither a B nor a magnitude is trained" + (method.empty() ? "" : " by " + method));
  }
}

TrainerOptions TrainingFlags::trainer_options() const {
  const auto batches = BatchOptions()
                           .batch_size(batch_size)
                           .packing(packing)
                           .max_length(max_length)
                           .shuffle(shuffle)
                           .seed(static_cast<uint64_t>(seed));
  return TrainerOptions()
      .lr(lr)
      .schedule(schedule)
      .warmup_steps(warmup_steps)
      .epochs(epochs)
      .max_steps(max_steps.value_or(0))
      .grad_accum(grad_accum)
      .clip(clip)
      .adamw(AdamWOptions().weight_decay(weight_decay))
      .optimizer(find_optimizer(optimizer).make(weight_decay))
      .groups(lr_ratio_b != 1.0 ? lora_plus(lr_ratio_b) : nullptr)
      .batches(batches)
      .eval_every(eval_every)
      .early_stopping_patience(early_stopping_patience)
      .save_every(save_every)
      .output(output)
      .resume(resume)
      .cuda_graph(cuda_graph);
}

DatasetOptions TrainingFlags::dataset_options(int64_t vocab_size, const Prompts& settled) const {
  return DatasetOptions()
      .max_length(max_length)
      .train_on_inputs(train_on_inputs)
      .chat_template(settled.chat_template)
      .prompt_format(settled.format)
      .now(settled.now)
      .vocab_size(vocab_size);
}

std::vector<RecordFile> TrainingFlags::read_data() const {
  if (!data_weights.empty() && data_weights.size() != data.size()) {
    throw UsageError(
        "--data-weights has " + std::to_string(data_weights.size()) + " numbers for " + std::to_string(data.size()) +
        " files of --data");
  }
  std::vector<double> weights;
  for (const std::string& text : data_weights) {
    double weight = 0;
    const auto end = std::from_chars(text.data(), text.data() + text.size(), weight);
    if (end.ec != std::errc() || end.ptr != text.data() + text.size() || !(weight > 0 && weight <= 1000)) {
      throw UsageError("--data-weights: expected numbers above 0, up to 1000, found '" + text + "'");
    }
    weights.push_back(weight);
  }
  std::vector<RecordFile> files = read_record_files({data.begin(), data.end()}, prompts.column_names());
  for (size_t i = 0; i < weights.size(); ++i) {
    files[i].weight = weights[i];
  }
  return files;
}

} // namespace rora::cli
