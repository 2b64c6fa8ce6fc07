// Trains a LLaMA of random weights on a task of random tokens, on a CPU or a GPU, and prints one JSON line: the losses
// of each run, the seconds of a step and, on a GPU, the most memory that its tensors took. It needs LibTorch alone.

#include "gpu_step_arguments.h"

#include <rora/core/low_rank_adapter.h>
#include <rora/model/decoder.h>
#include <rora/model/weights_with_room.h>
#include <rora/training/adamw.h>
#include <rora/training/parameter_table.h>
#include <rora/training/step_graphs.h>
#include <rora/training/train_step.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <torch/utils.h>

#if defined(RORA_HAS_CUDA)
#include <c10/cuda/CUDAFunctions.h>
#endif

#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace {

using rora::kIgnoreIndex;
using rora::gpu_step::Arguments;
using rora::gpu_step::Flags;

/// Sequences that can be learnt: each token follows from the one before by a rule of the seed. `padded` rows end early;
/// `packed` rows hold three sequences, and a little padding.
rora::Batch make_batch(const Arguments& arguments, int64_t number) {
  const int64_t vocab = arguments.model.vocab_size(), seq = arguments.seq;
  torch::manual_seed(static_cast<uint64_t>(arguments.seed * 7919 + number));
  at::Tensor ids = at::empty({arguments.batch, seq}, at::kLong);
  at::Tensor token = at::randint(vocab, {arguments.batch}, at::kLong);
  for (int64_t place = 0; place < seq; ++place) {
    ids.select(1, place).copy_(token);
    token = at::remainder(token * 5 + 7, vocab);
  }
  rora::Batch batch;
  batch.input_ids = ids;
  batch.labels = ids.clone();
  if (arguments.rows != "whole") {
    at::Tensor mask = at::ones_like(ids);
    for (int64_t row = 0; row < arguments.batch; ++row) {
      const int64_t end = std::max<int64_t>(2, seq - (row * 5 + number) % (seq / 2));
      mask[row].slice(0, end).zero_();
      if (arguments.rows == "packed") {
        for (const int64_t start : {end / 3, end * 2 / 3}) {
          mask[row].slice(0, start, end).add_(1);
          batch.labels[row][start] = kIgnoreIndex;
        }
      }
    }
    batch.labels.masked_fill_(mask == 0, kIgnoreIndex);
    batch.attention_mask = mask;
  }
  batch.labelled_tokens = batch.labels.slice(1, 1).ne(kIgnoreIndex).sum().item<int64_t>();
  return batch;
}

/// Weights as a model's that has learnt something: norms of 1, and products that keep their input's size.
void fill_weights(rora::CausalLM& model) {
  at::NoGradGuard no_grad;
  for (auto& parameter : model->named_parameters()) {
    at::Tensor& weight = parameter.value();
    if (weight.dim() == 1) {
      weight.fill_(1.0);
    } else {
      weight.normal_(0.0, parameter.key().find("embed") != std::string::npos ? 1.0 : 1.0 / std::sqrt(weight.size(1)));
    }
  }
}

rora::CausalLM make_model(const Arguments& arguments) {
  torch::manual_seed(static_cast<uint64_t>(arguments.seed));
  const bool on_device = arguments.init == "device"; // for large models: random numbers would take a CPU minutes
  if (on_device) {
    torch::set_default_dtype(c10::scalarTypeToTypeMeta(arguments.dtype));
  }
  rora::CausalLM model = rora::DecoderForCausalLM(arguments.model);
  torch::set_default_dtype(c10::scalarTypeToTypeMeta(at::kFloat));
  if (on_device) {
    model->to(arguments.device);
    fill_weights(model);
  } else {
    fill_weights(model);
    model->to(arguments.dtype);
  }
  if (!arguments.frozen) {
    for (const auto& item : model->named_modules("", /*include_self=*/false)) {
      auto projection = std::dynamic_pointer_cast<rora::ProjectionImpl>(item.value());
      if (projection && projection->as<rora::EmbeddingImpl>() == nullptr && item.key() != "lm_head") {
        projection->attach("default", std::make_shared<rora::LowRankAdapter>(*projection, arguments.adapter));
      }
    }
  }
  model->to(arguments.device);
  if (arguments.room) {
    rora::leave_room_beside_weights(model, arguments.adapter.rank());
  }
  model->checkpointing = arguments.checkpointing;
  model->train();
  return model;
}

/// The loss of a model without adapters. The gradient reaches `embedded`, the inputs of the first layer, as it would if
/// an adapter stood below that.
rora::LossSum frozen_loss(rora::CausalLM& model, const rora::Batch& batch, at::Tensor& embedded) {
  const at::Tensor ids = batch.input_ids.to(model->device());
  embedded = model->embed(ids).detach().set_requires_grad(true);
  rora::ModelInput input;
  input.input_ids = ids;
  input.attention_mask = batch.attention_mask;
  input.inputs_embeds = embedded;
  return model->loss(input, batch.labels);
}

/// In place of CUDA graphs: what is captured is called again.
class Repeats : public rora::GraphRunner {
 public:
  std::function<void()> capture(const std::function<void()>& work) override {
    return work;
  }
};

/// What the gradients of batches come from where `--graph` asks for it.
std::unique_ptr<rora::StepGraphs> make_graphs(
    const Arguments& arguments, const rora::CausalLM& model, rora::ParameterTable& parameters) {
  std::unique_ptr<rora::GraphRunner> runner;
  if (arguments.graph == "repeated") {
    runner = std::make_unique<Repeats>();
  } else if (const auto why = rora::why_not_captured(model)) {
    C10_THROW_ERROR(ValueError, "--graph captured: " + *why);
  } else {
    runner = rora::cuda_graph_runner(parameters.values().device());
  }
  return std::make_unique<rora::StepGraphs>(model, parameters, std::move(runner));
}

/// The step of that number, of one batch.
rora::StepBatches step_of(const Arguments& arguments, const rora::Batch& batch, int64_t number) {
  const auto seed = static_cast<uint64_t>(arguments.seed * 104729 + number); // of dropout
  rora::StepBatches step;
  step.number = number;
  step.batches.push_back({batch, 0, seed});
  step.places = 1;
  step.labelled_tokens = batch.labelled_tokens;
  return step;
}

void synchronize(const Arguments& arguments) {
  if (!arguments.device.is_cpu()) {
    at::accelerator::synchronizeDevice(at::accelerator::getDeviceIndex());
  }
}

/// FNV-1a of the values' bytes: equal for equal bits.
uint64_t digest(const at::Tensor& values) {
  const at::Tensor own = values.detach().cpu().contiguous();
  const auto* bytes = static_cast<const unsigned char*>(own.const_data_ptr());
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < own.nbytes(); ++i) {
    hash = (hash ^ bytes[i]) * 0x100000001b3;
  }
  return hash;
}

/// While it lives, LibTorch throws where the program would wait for the GPU.
class NoWaiting {
 public:
  NoWaiting() {
#if defined(RORA_HAS_CUDA)
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_ERROR);
#else
    C10_THROW_ERROR(ValueError, "--no-waits: this build has no CUDA");
#endif
  }
  ~NoWaiting() {
#if defined(RORA_HAS_CUDA)
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
#endif
  }
  NoWaiting(const NoWaiting&) = delete;
  NoWaiting& operator=(const NoWaiting&) = delete;
};

struct Run {
  std::vector<double> losses;
  std::vector<double> seconds; ///< without the warm-up's
  int64_t tokens = 0; ///< of a step
  int64_t trained = 0;
  uint64_t digest = 0;
};

Run train(const Arguments& arguments) {
  rora::CausalLM model = make_model(arguments);
  std::optional<rora::ParameterTable> parameters;
  std::optional<rora::AdamW> optimizer;
  std::optional<rora::TrainStep> training;
  std::unique_ptr<rora::StepGraphs> graphs;
  if (!arguments.frozen) {
    parameters.emplace(*model);
    optimizer.emplace(*parameters);
    training.emplace(model, *parameters, *optimizer, /*clip=*/1.0);
    graphs = arguments.graph == "none" ? nullptr : make_graphs(arguments, model, *parameters);
    training->set_graphs(graphs.get());
  }
  Run run;
  run.trained = parameters ? parameters->values().numel() : 0;
  at::Tensor last;
  for (int64_t step = 0; step < arguments.warmup + arguments.steps; ++step) {
    const rora::Batch batch = make_batch(arguments, step);
    run.tokens = batch.labels.numel();
    synchronize(arguments);
    const auto begin = std::chrono::steady_clock::now();
    std::optional<NoWaiting> no_waiting;
    if (arguments.no_waits && step > 0) { // the first loads libraries
      no_waiting.emplace();
    }
    double value = 0.0;
    if (arguments.frozen) {
      at::Tensor embedded;
      const rora::LossSum loss = frozen_loss(model, batch, embedded);
      const at::Tensor mean = loss.sum / static_cast<double>(loss.tokens);
      mean.backward();
      last = embedded.grad();
      no_waiting.reset();
      value = mean.item<double>();
    } else {
      training->queue(step_of(arguments, batch, step), arguments.learning_rate);
      last = parameters->values();
      no_waiting.reset();
      value = training->finish().loss;
    }
    synchronize(arguments);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    run.losses.push_back(value);
    if (step >= arguments.warmup) {
      run.seconds.push_back(taken.count());
    }
  }
  run.digest = last.defined() ? digest(last) : 0;
  return run;
}

void print_list(const char* name, const std::vector<double>& values) {
  std::printf("\"%s\": [", name);
  for (size_t i = 0; i < values.size(); ++i) {
    // JSON has no NaN: it is what a loss became, so it is said as null.
    std::printf("%s", i == 0 ? "" : ", ");
    if (std::isfinite(values[i])) {
      std::printf("%.17g", values[i]);
    } else {
      std::printf("null");
    }
  }
  std::printf("]");
}

int run(const Arguments& arguments) {
  if (arguments.threads > 0) {
    at::set_num_threads(static_cast<int>(arguments.threads));
  }
  if (arguments.deterministic) {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  std::printf("{\"runs\": [");
  Run last;
  for (int64_t i = 0; i < arguments.repeat; ++i) {
    last = train(arguments);
    std::printf("%s{", i == 0 ? "" : ", ");
    print_list("losses", last.losses);
    std::printf(", ");
    print_list("seconds", last.seconds);
    std::printf(", \"digest\": \"%016llx\"}", static_cast<unsigned long long>(last.digest));
  }
  std::vector<double> sorted = last.seconds;
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted.empty() ? 0.0 : sorted[sorted.size() / 2];
  std::printf("], \"step_s\": %.6g, \"tokens_per_s\": %.6g, ", median, static_cast<double>(last.tokens) / median);
  if (arguments.device.is_cpu()) {
    std::printf("\"peak_bytes\": null, ");
  } else {
    const auto stats = at::accelerator::getDeviceStats(at::accelerator::getDeviceIndex());
    std::printf("\"peak_bytes\": %lld, ", static_cast<long long>(stats.allocated_bytes[0].peak));
  }
  std::printf(
      "\"tokens\": %lld, \"trained\": %lld}\n", static_cast<long long>(last.tokens),
      static_cast<long long>(last.trained));
  return 0;
}

} // namespace

int main(int count, char** words) {
  try {
    return run(Arguments(Flags(count, words)));
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "gpu_step: %s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_step: %s\n", error.what());
    return 1;
  }
}
