#pragma once

#include "support/tiny_llama.h"

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/attach.h>
#include <rora/adapters/bottleneck.h>
#include <rora/adapters/prefix_tuning.h>
#include <rora/data/batch.h>
#include <rora/training/step_graphs.h>
#include <rora/training/trainer.h>

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace rora::testing {

/// In place of CUDA graphs: what is captured is called again.
class Repeats : public GraphRunner {
 public:
  std::function<void()> capture(const std::function<void()>& work) override {
    last = work;
    return work;
  }
  std::function<void()> last;
};

/// How a model differs from a tiny LLaMA with adapters of rank 4, and its batches from rows of one length.
struct Form {
  std::string name;
  LowRankOptions adapter = LowRankOptions().rank(4).alpha(8);
  at::ScalarType dtype = at::kFloat;
  int64_t sequences = 1; ///< of a row
  bool ragged = false;
  bool head = false;
  bool pretraining = false;
  std::shared_ptr<const AdapterKind> kind = nullptr; ///< another than low-rank ones
};

inline std::vector<Form> forms() {
  std::vector<Form> forms;
  const auto add = [&](const char* name, const std::function<void(Form&)>& change) {
    forms.emplace_back();
    forms.back().name = name;
    change(forms.back());
  };
  add("whole_rows", [](Form&) {});
  add("padded", [](Form& form) { form.ragged = true; });
  add("packed", [](Form& form) { form.sequences = 3; });
  add("double", [](Form& form) {
    form.ragged = true;
    form.dtype = at::kDouble;
  });
  add("bfloat16", [](Form& form) {
    form.sequences = 2;
    form.ragged = true;
    form.dtype = at::kBFloat16;
  });
  add("dora", [](Form& form) {
    form.ragged = true;
    form.adapter.dora(true);
  });
  add("adapted_head", [](Form& form) {
    form.ragged = true;
    form.head = true;
  });
  add("pretraining", [](Form& form) {
    form.ragged = true;
    form.pretraining = true;
  });
  add("parallel_bottlenecks", [](Form& form) {
    form.ragged = true;
    form.kind = bottleneck(BottleneckOptions().form(BottleneckForm::kParallel).width(6));
  });
  add("prefix", [](Form& form) { form.kind = prefix_tuning(PrefixTuningOptions().num_virtual_tokens(4)); });
  add("prefix_padded", [](Form& form) {
    form.ragged = true;
    form.kind = prefix_tuning(PrefixTuningOptions().num_virtual_tokens(4));
  });
  return forms;
}

inline DecoderForCausalLM make(const Form& form, at::Device device = at::kCPU) {
  DecoderForCausalLM model = tiny_llama();
  model->to(form.dtype);
  model->to(device);
  if (form.pretraining) {
    for (at::Tensor& parameter : model->parameters()) {
      parameter.set_requires_grad(true);
    }
  } else {
    std::vector<std::string> targets{"q_proj", "v_proj", "o_proj", "up_proj", "down_proj"};
    if (form.head) {
      targets.emplace_back("lm_head");
    }
    at::manual_seed(5);
    const bool prefix = form.kind != nullptr && form.kind->peft_type() == "PREFIX_TUNING";
    attach_adapters(
        *model,
        AdapterOptions()
            .low_rank(form.adapter)
            .kind(form.kind)
            .target_modules(prefix ? kDefaultTargetModules : targets));
    at::NoGradGuard no_grad;
    for (at::Tensor parameter : adapter_parameters(*model)) {
      parameter.add_(at::randn(parameter.sizes()).mul_(0.1).to(parameter.options())); // B begins at 0
    }
  }
  model->train();
  return model;
}

/// Rows of `seq` tokens at most, other ones for each seed.
inline Batch batch_of(const Form& form, uint64_t seed, int64_t rows = 3, int64_t seq = 40) {
  at::manual_seed(seed);
  std::vector<Example> examples;
  std::vector<std::vector<int64_t>> plan;
  for (int64_t row = 0; row < rows; ++row) {
    plan.emplace_back();
    for (int64_t i = 0; i < form.sequences; ++i) {
      // The first row is whole, so that the batches of all seeds are of one length.
      const int64_t less = form.ragged && row > 0 ? at::randint(seq / 3, {1}).item<int64_t>() : 0;
      const int64_t length = seq / form.sequences - less / form.sequences;
      Example example;
      for (int64_t place = 0; place < length; ++place) {
        example.input_ids.push_back(at::randint(32, {1}).item<int64_t>());
        example.labels.push_back(place % 4 == 1 ? kIgnoreIndex : example.input_ids.back());
      }
      plan.back().push_back(static_cast<int64_t>(examples.size()));
      examples.push_back(example);
    }
  }
  return make_batch(examples, plan);
}

/// What a short run gives: losses, the last validation's behind them.
inline std::vector<double> losses_of_run(at::Device device, bool cuda_graph, bool dora) {
  Form form;
  form.adapter.dora(dora);
  DecoderForCausalLM model = make(form, device);
  std::vector<Example> examples;
  for (int64_t i = 0; i < 24; ++i) {
    Example example;
    for (int64_t place = 0; place < 5 + i % 3; ++place) {
      example.input_ids.push_back((3 * i + place) % 32);
      example.labels.push_back(example.input_ids.back());
    }
    examples.push_back(example);
  }
  BatchOptions batches;
  batches.batch_size(4);
  Trainer trainer(
      model, examples,
      TrainerOptions().lr(1e-2).max_steps(12).grad_accum(2).batches(batches).eval_every(4).cuda_graph(cuda_graph));
  trainer.set_validation({examples[0], examples[5]});
  std::vector<double> losses;
  trainer.set_callback([&](const StepMetrics& metrics) { losses.push_back(metrics.loss); });
  losses.push_back(trainer.train().best_eval_loss.value());
  return losses;
}

} // namespace rora::testing
