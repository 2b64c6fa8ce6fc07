#pragma once

#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/file.h>
#include <rora/error.h>
#include <rora/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace rora::testing {

inline at::Tensor logits_of(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(10, at::kLong).view({1, 10}), {}, {}});
}

/// Rows that count upwards, of five lengths.
inline std::vector<Example> counting() {
  std::vector<Example> examples;
  for (int64_t i = 0; i < 24; ++i) {
    Example example;
    for (int64_t place = 0; place < 4 + i % 5; ++place) {
      example.input_ids.push_back((3 * i + place) % 32);
    }
    example.labels = example.input_ids;
    examples.push_back(example);
  }
  return examples;
}

/// A training of a tiny LLaMA's adapters on counting, which stops after `stop_after` steps, or goes on with one that
/// stopped in that folder.
struct KindRun {
  KindRun(const AdapterOptions& options, const std::filesystem::path& folder, int64_t stop_after = 1000)
      : model(tiny_llama()) {
    attach_adapters(*model, options);
    Trainer trainer(
        model, counting(),
        TrainerOptions()
            .lr(2e-2)
            .max_steps(40)
            .batches(BatchOptions().batch_size(8).seed(5))
            .save_every(2)
            .output(folder)
            .resume(true));
    trainer.set_save([&](const std::filesystem::path& path) { save_adapter(*model, path); });
    trainer.set_callback([&](const StepMetrics& metrics) {
      losses.push_back(metrics.loss);
      if (metrics.step >= stop_after) {
        trainer.request_stop();
      }
    });
    trainer.train();
    model->eval();
  }

  at::Tensor flat() const {
    std::vector<at::Tensor> parts;
    for (const at::Tensor& each : adapter_parameters(*model)) {
      parts.push_back(each.detach().flatten());
    }
    return at::cat(parts).clone();
  }

  DecoderForCausalLM model;
  std::vector<double> losses; ///< of its own steps
};

/// Saves the adapters, loads them on another tiny LLaMA, and expects its logits, but for `tolerance`, and the bytes of
/// what it saves to be those of `model`. Returns adapter_config.json.
inline nlohmann::json expect_the_same_once_loaded(DecoderForCausalLM model, double tolerance = 0.0) {
  const TemporaryFolder folder;
  save_adapter(*model, folder / "first");
  auto other = tiny_llama();
  load_adapter(*other, folder / "first");
  EXPECT_LE(relative_error(logits_of(other), logits_of(model)), tolerance);
  save_adapter(*other, folder / "second");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(read_file(folder / "first" / file), read_file(folder / "second" / file)) << file;
  }
  return nlohmann::json::parse(read_file(folder / "first/adapter_config.json"));
}

/// What loading a folder on a tiny LLaMA throws once that field of its config is another.
inline std::string failure_with(
    const std::filesystem::path& folder, const std::string& field, const nlohmann::json& value) {
  const std::string kept = read_file(folder / "adapter_config.json");
  auto config = nlohmann::json::parse(kept);
  config[field] = value;
  write_file(folder / "adapter_config.json", config.dump());
  std::string message = "nothing was thrown";
  auto other = tiny_llama();
  try {
    load_adapter(*other, folder);
  } catch (const FormatError& error) {
    message = error.what();
  }
  write_file(folder / "adapter_config.json", kept);
  return message;
}

} // namespace rora::testing
