#include "adapter_flags.h"
#include "command.h"
#include "model_flags.h"
#include "training_flags.h"

#include <rora/adapters/attach.h>
#include <rora/data/dataset.h>
#include <rora/training/adamw.h>
#include <rora/training/device_memory.h>
#include <rora/training/step_graphs.h>
#include <rora/training/train_step.h>

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>

namespace rora::cli {
namespace {

constexpr double kLearningRate = 1e-4;
/// Ids below are special tokens in most vocabularies.
constexpr int64_t kFirstId = 3;
/// More in one step fit no machine.
constexpr int64_t kMaxTokens = int64_t{1} << 24;

struct Arguments {
  ModelFlags model;
  AdapterFlags adapter;
  std::optional<double> alpha;
  bool frozen = false;
  bool inference = false;
  bool merge = false;
  bool cuda_graph = false;
  Checkpointing checkpointing = Checkpointing::kNone;
  int64_t batch = 4;
  int64_t seq = 256;
  int64_t steps = 5;
  double labelled = 1.0;
};

std::string mode(const Arguments& arguments, const Flags& flags) {
  const bool rank_stabilized = arguments.adapter.scaling == Scaling::kRankStabilized;
  const std::string trained = arguments.frozen ? "frozen"
      : arguments.adapter.dora                 ? (rank_stabilized ? "dora_rslora" : "dora")
                                               : (rank_stabilized ? "rslora" : "lora");
  const std::string kept = arguments.checkpointing == Checkpointing::kNone
      ? ""
      : "_" + flags.resolved()["checkpointing"].get<std::string>() + "_checkpointing";
  return trained + (arguments.merge ? "_merged" : "") + (arguments.inference ? "_inference" : "") + kept;
}

double rounded(double value, int digits) {
  const double scale = std::pow(10.0, digits);
  return std::round(value * scale) / scale;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

struct Times {
  double step = 0.0;
  std::optional<double> forward; ///< none where a graph holds forward and backward
  double loss = 0.0;
};

/// Measures from its making. A GPU works behind the program: what it took is read from events among its work.
class Stopwatch {
 public:
  explicit Stopwatch(at::Device device) : device_(device) {
    mark();
  }

  /// The end of a stretch.
  void mark() {
    times_.push_back(std::chrono::steady_clock::now());
    if (device_.is_cuda()) {
      events_.emplace_back(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
      events_.back().record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
    }
  }

  /// From the making to the i-th mark, once all that was queued before the mark has been waited for.
  double seconds(size_t i) const {
    constexpr double kMilliseconds = 1e-3;
    return events_.empty() ? std::chrono::duration<double>(times_[i] - times_[0]).count()
                           : kMilliseconds * events_[0].elapsedTime(events_[i]);
  }

 private:
  at::Device device_;
  std::vector<std::chrono::steady_clock::time_point> times_;
  std::vector<c10::Event> events_;
};

/// Forward, and the gradient to the inputs, as it would reach an adapter that stood below the first layer.
Times take_frozen_step(CausalLM model, const Batch& batch) {
  Stopwatch stopwatch(model->device());
  ModelInput own;
  own.input_ids = batch.input_ids;
  own.inputs_embeds = model->embed(batch.input_ids.to(model->device())).detach().set_requires_grad(true);
  const LossSum loss = model->loss(own, batch.labels);
  const at::Tensor mean = loss.sum / static_cast<double>(loss.tokens);
  stopwatch.mark();
  mean.backward();
  stopwatch.mark();
  // Reading an element of what the step has written waits for a GPU.
  own.inputs_embeds.grad().flatten()[0].item();
  return {stopwatch.seconds(2), stopwatch.seconds(1), mean.item<double>()};
}

/// Forward alone, as generation and evaluation take it.
Times infer(CausalLM model, const Batch& batch) {
  at::NoGradGuard no_grad;
  Stopwatch stopwatch(model->device());
  ModelInput input;
  input.input_ids = batch.input_ids;
  const LossSum loss = model->loss(input, batch.labels);
  stopwatch.mark();
  const double sum = loss.sum.item<double>(); // waits for a GPU
  return {stopwatch.seconds(1), std::nullopt, sum / static_cast<double>(loss.tokens)};
}

/// Marks where the forward of a step ends.
class ForwardMark : public TrainingHook {
 public:
  std::string name() const override {
    return "forward";
  }
  at::Tensor extra_loss(const StepContext&) override {
    stopwatch->mark();
    return {};
  }

  Stopwatch* stopwatch = nullptr;
};

/// Whole steps, as `Trainer` takes them.
class Training {
 public:
  Training(CausalLM model, bool cuda_graph)
      : parameters(*model), optimizer_(parameters), step_(model, parameters, optimizer_, /*clip=*/0.0) {
    if (cuda_graph) {
      graphs_.emplace(model, parameters, cuda_graph_runner(model->device()));
      step_.set_graphs(&*graphs_);
    } else {
      step_.add_hook(mark_);
    }
  }

  Times take_step(const Batch& batch) {
    StepBatches batches;
    batches.number = number_++;
    batches.batches.push_back({batch, 0, static_cast<uint64_t>(batches.number)});
    batches.places = 1;
    batches.labelled_tokens = batch.labelled_tokens;
    Stopwatch stopwatch(parameters.values().device());
    mark_->stopwatch = &stopwatch;
    step_.queue(batches, kLearningRate);
    stopwatch.mark();
    const double loss = step_.finish().loss;
    return graphs_ ? Times{stopwatch.seconds(1), std::nullopt, loss}
                   : Times{stopwatch.seconds(2), stopwatch.seconds(1), loss};
  }

  ParameterTable parameters;

 private:
  AdamW optimizer_;
  TrainStep step_;
  std::shared_ptr<ForwardMark> mark_ = std::make_shared<ForwardMark>();
  std::optional<StepGraphs> graphs_;
  int64_t number_ = 0;
};

/// Rows of random tokens with labels at their ends.
Batch random_batch(const Arguments& arguments, int64_t vocab_size) {
  Batch batch;
  batch.input_ids = at::randint(kFirstId, vocab_size, {arguments.batch, arguments.seq}, at::kLong);
  batch.labels = batch.input_ids.clone();
  const auto unlabelled = static_cast<int64_t>(static_cast<double>(arguments.seq) * (1.0 - arguments.labelled));
  batch.labels.slice(1, 0, unlabelled).fill_(kIgnoreIndex);
  batch.tokens = batch.input_ids.numel();
  batch.labelled_tokens = batch.labels.slice(1, 1).ne(kIgnoreIndex).sum().item<int64_t>();
  return batch;
}

int bench(Arguments& arguments, const Flags& flags) {
  if (!(arguments.labelled > 0.0 && arguments.labelled <= 1.0)) {
    throw UsageError("--labelled must be over 0 and at most 1");
  }
  if (arguments.batch > kMaxTokens / arguments.seq) {
    throw UsageError(
        "--batch " + std::to_string(arguments.batch) + " rows of --seq " + std::to_string(arguments.seq) +
        " are over " + std::to_string(kMaxTokens) + " tokens a step");
  }
  arguments.model.check_cuda_graph(arguments.cuda_graph);
  if (arguments.cuda_graph && arguments.frozen) {
    throw UsageError("--cuda-graph is for steps that train: --frozen has none");
  }
  if (arguments.merge && (!arguments.inference || arguments.frozen)) {
    throw UsageError("--merge needs --inference, and an adapter");
  }
  if (arguments.inference && arguments.cuda_graph) {
    throw UsageError("--cuda-graph is for steps that train: --inference has none");
  }
  if (arguments.inference && arguments.checkpointing != Checkpointing::kNone) {
    throw UsageError("--checkpointing is for steps with a backward: --inference has none");
  }
  if (arguments.frozen && arguments.checkpointing == Checkpointing::kSelective) {
    throw UsageError("--checkpointing selective forms again what adapters keep: --frozen has none");
  }
  AdapterFlags& adapter = arguments.adapter;
  CausalLM model = arguments.model.load();
  torch::manual_seed(0);
  if (!arguments.frozen) {
    adapter.alpha = arguments.alpha.value_or(2.0 * static_cast<double>(adapter.rank));
    adapter.attach(model, adapter.resolve(flags));
  }
  if (arguments.merge) {
    merge_adapters(*model);
  }
  model->train(!arguments.inference);
  model->checkpointing = arguments.checkpointing;
  if (const auto why = arguments.cuda_graph ? why_not_captured(model) : std::nullopt) {
    throw UsageError("--cuda-graph: " + *why);
  }
  std::optional<Training> training;
  if (!arguments.frozen && !arguments.inference) {
    training.emplace(model, arguments.cuda_graph);
  }
  const Batch batch = random_batch(arguments, model->options.vocab_size());
  std::vector<double> steps, forwards;
  Times times;
  const int64_t warm_ups = arguments.cuda_graph ? StepGraphs::kWarmUps + 1 : 1;
  for (int64_t step = 0; step < warm_ups + arguments.steps; ++step) {
    times = training          ? training->take_step(batch)
        : arguments.inference ? infer(model, batch)
                              : take_frozen_step(model, batch);
    if (step >= warm_ups) {
      steps.push_back(times.step);
      forwards.push_back(times.forward.value_or(0.0));
    }
  }
  Json json;
  json["peer"] = "rora";
  json["mode"] = mode(arguments, flags);
  json["rank"] = adapter.rank;
  json["dtype"] = dtype_text(*arguments.model.dtype);
  json["batch"] = arguments.batch;
  json["seq"] = arguments.seq;
  json["labelled"] = arguments.labelled;
  json["step_s"] = rounded(median(steps), 4);
  if (times.forward) {
    json["forward_s"] = rounded(median(forwards), 4);
  }
  json["tokens_per_s"] = rounded(static_cast<double>(batch.tokens) / median(steps), 1);
  json["peak_rss_mib"] = peak_rss_mib();
  if (const auto peak = peak_cuda_mib(model->device())) {
    json["peak_cuda_mib"] = *peak;
  }
  json["trainable"] = training ? training->parameters.values().numel() : 0;
  json["loss"] = rounded(times.loss, 4);
  std::cout << json.dump() << "\n";
  return 0;
}

} // namespace

Run add_bench(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  arguments->model.add_model(flags);
  arguments->adapter.add_rank(flags);
  flags.add("alpha", arguments->alpha, "Numerator of the adapter's scale (default: 2 x rank)").positive();
  arguments->adapter.add_scaling(flags);
  flags.add(
      "frozen", arguments->frozen,
      "No adapter, whatever the flags of one say: forward, and the gradient to the inputs through all layers (default: "
      "off)");
  flags.add("inference", arguments->inference, "Forward alone, without gradients (default: off)");
  flags.add("merge", arguments->merge, "Merge the adapter first; needs --inference (default: off)");
  flags.add(
      "cuda-graph", arguments->cuda_graph, "Forward and backward by a CUDA graph; needs --device cuda (default: off)");
  add_checkpointing(flags, arguments->checkpointing);
  flags.add("batch", arguments->batch, "Rows a step").between(1, kMaxCount);
  flags.add("seq", arguments->seq, "Tokens a row").between(2, kMaxCount);
  arguments->model.add_dtype(flags);
  flags.add("steps", arguments->steps, "Timed steps, after those that warm up").between(1, kMaxCount);
  flags.add("labelled", arguments->labelled, "Share of the tokens, at each row's end, that carry a label");
  arguments->model.add_device(flags);
  arguments->model.add_threads(flags);
  arguments->model.add_pack_weights(flags);
  arguments->model.add_loading(flags);
  return [arguments, &flags] { return bench(*arguments, flags); };
}

} // namespace rora::cli
