#include <rora/training/trainer.h>

#include "batch_input.h"
#include "fingerprint.h"
#include "mix.h"
#include "step_plan.h"
#include "training_state.h"

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <stdexcept>

namespace rora {
namespace {

using detail::mix;

std::vector<at::Tensor> trained_parameters(const CausalLM& model) {
  if (model->dtype() == at::kHalf) {
    throw std::invalid_argument(
        "a model in float16 is not trained, as its gradients would underflow: bring it to bfloat16 or float32");
  }
  std::vector<at::Tensor> trained;
  for (const at::Tensor& each : model->parameters()) {
    if (each.requires_grad()) {
      trained.push_back(each);
    }
  }
  return trained;
}

}  // namespace

void TrainerOptions::validate() const {
  const auto require = [](bool holds, const std::string& message) {
    if (!holds) {
      throw std::invalid_argument(message);
    }
  };
  require(std::isfinite(lr_) && lr_ >= 0.0, "lr must be a number of at least 0");
  require(warmup_steps_ >= 0, "warmup_steps must not be negative");
  require(epochs_ >= 1 || max_steps_ >= 1, "epochs must be at least 1");
  require(max_steps_ >= 0, "max_steps must not be negative");
  require(grad_accum_ >= 1, "grad_accum must be at least 1");
  require(clip_ >= 0.0, "clip must not be negative");
  require(adamw_.weight_decay() >= 0.0, "weight_decay must not be negative");
  require(batches_.batch_size >= 1, "batch_size must be at least 1");
  require(eval_every_ >= 0, "eval_every must not be negative");
  require(save_every_ >= 0, "save_every must not be negative");
  require(early_stopping_patience_ >= 0, "early_stopping_patience must not be negative");
  require((save_every_ == 0 && !resume_) || !output_.empty(), "checkpoints need an output folder");
}

struct Trainer::State {
  State(CausalLM model, std::vector<Example> examples, TrainerOptions options)
      : model(std::move(model)),
        examples(std::move(examples)),
        options(std::move(options)),
        parameters(trained_parameters(this->model)),
        optimizer(parameters, this->options.adamw()),
        plan(this->examples, this->options.batches(), this->options.grad_accum()) {
    total_steps =
        this->options.max_steps() > 0 ? this->options.max_steps() : plan.steps_of_epochs(this->options.epochs());
    fingerprint = detail::run_fingerprint(this->options, total_steps, this->model);
    fingerprint["data"] = detail::examples_fingerprint(this->examples);
    fingerprint["validation"] = detail::examples_fingerprint({});
  }

  void save_checkpoint() {
    if (!options.output().empty()) {
      detail::save_training_state(options.output(), progress, parameters, optimizer, fingerprint, save);
    }
  }

  /// A step's batches on the CPU.
  struct StepBatches {
    int64_t number = -1;
    int64_t epoch = 0;
    bool ends_epoch = false;
    std::vector<Batch> batches;
    int64_t tokens = 0;
    int64_t labelled_tokens = 0;
  };

  StepBatches make_step(int64_t number) {
    const auto planned = plan.step(number);
    StepBatches step;
    step.number = number;
    step.epoch = planned.epoch;
    step.ends_epoch = planned.ends_epoch;
    for (const auto& rows : planned.batches) {
      step.batches.push_back(make_batch(examples, rows));
      step.tokens += step.batches.back().tokens;
      step.labelled_tokens += step.batches.back().labelled_tokens;
    }
    return step;
  }

  /// Gradients of the step's mean loss into the buffer. Each batch's share is by its labelled tokens, so that the
  /// gradient is that of one big batch. Returns the batches' sums of losses.
  std::vector<at::Tensor> accumulate(const StepBatches& step, StepGraphs* graphs) {
    std::vector<at::Tensor> sums;
    parameters.zero_grad();
    const at::Tensor factor = detail::loss_factor(model, 1.0 / static_cast<double>(step.labelled_tokens));
    uint64_t place = 0;
    for (const Batch& batch : step.batches) {
      if (batch.labelled_tokens > 0) {
        const auto number = static_cast<uint64_t>(step.number);
        torch::manual_seed(mix(mix(options.batches().seed) ^ mix(number * 0x10001 + place)));
        sums.push_back(
            graphs != nullptr ? graphs->add_gradient(batch, step.labelled_tokens) : add_gradient(batch, factor));
      }
      ++place;
    }
    return sums;
  }

  at::Tensor add_gradient(const Batch& batch, const at::Tensor& factor) {
    const PreparedLoss prepared = model->prepare_loss(detail::batch_input(batch), batch.labels);
    return detail::add_gradient(model, prepared.on(factor.device()), factor).to(at::kDouble);
  }

  /// `graphs` may be null.
  StepMetrics take_step(StepGraphs* graphs) {
    const auto begin = std::chrono::steady_clock::now();
    const StepBatches step = next.number == progress.step ? std::move(next) : make_step(progress.step);
    // All of the step is queued before a GPU is waited for: the update leaves itself out where it would do harm, and
    // the next batches are made meanwhile.
    std::vector<at::Tensor> figures = accumulate(step, graphs);
    figures.push_back(parameters.clip_gradients(options.clip()).to(at::kDouble));
    const at::Tensor queued = at::stack(figures);
    StepMetrics metrics;
    metrics.lr = learning_rate(options.schedule(), options.lr(), progress.step, options.warmup_steps(), total_steps);
    optimizer.step(metrics.lr, queued.isfinite().logical_not().any().to(at::kFloat));
    next = progress.step + 1 < total_steps ? make_step(progress.step + 1) : StepBatches();
    read_figures(queued, step, metrics);
    metrics.step = ++progress.step;
    metrics.total_steps = total_steps;
    metrics.epoch = step.epoch;
    metrics.tokens = step.tokens;
    metrics.labelled_tokens = step.labelled_tokens;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    metrics.tokens_per_s = static_cast<double>(metrics.tokens) / seconds.count();
    metrics.peak_rss_mib = peak_rss_mib();
    metrics.peak_cuda_mib = peak_cuda_mib(parameters.values().device());
    const bool due = options.eval_every() > 0 ? progress.step % options.eval_every() == 0 : step.ends_epoch;
    if (!validation.empty() && (due || progress.step == total_steps)) {
      metrics.eval_loss = validate();
    }
    return metrics;
  }

  /// Waits for the step. `queued` holds the batches' sums of losses and, last, the gradient's norm.
  void read_figures(const at::Tensor& queued, const StepBatches& step, StepMetrics& metrics) {
    const at::Tensor figures = queued.cpu();
    const auto* values = figures.const_data_ptr<double>();
    const int64_t sums = figures.numel() - 1;
    for (int64_t i = 0; i < sums; ++i) {
      metrics.loss += values[i] / static_cast<double>(step.labelled_tokens);
    }
    metrics.grad_norm = values[sums];
    if (!std::isfinite(metrics.loss) || !std::isfinite(metrics.grad_norm)) {
      --optimizer.steps; // the update was left out
      throw std::runtime_error(
          "the loss or its gradient is not finite at step " + std::to_string(step.number + 1) +
          ": a lower learning rate or float32 may help");
    }
  }

  double validate() {
    const double loss = mean_loss(model, validation, options.batches().batch_size);
    if (!progress.best_eval_loss || loss < *progress.best_eval_loss) {
      progress.best_eval_loss = loss;
      progress.best_step = progress.step;
      progress.evaluations_without_gain = 0;
      progress.best_values = parameters.values().detach().clone();
    } else {
      ++progress.evaluations_without_gain;
    }
    return loss;
  }

  bool out_of_patience() const {
    return options.early_stopping_patience() > 0 &&
           progress.evaluations_without_gain >= options.early_stopping_patience();
  }

  /// All steps that are left, with what follows on each.
  TrainingResult take_steps() {
    std::optional<StepGraphs> graphs;
    if (options.cuda_graph()) {
      if (const auto why = why_not_captured(model)) {
        throw std::invalid_argument("cuda_graph: " + *why);
      }
      graphs.emplace(model, parameters, cuda_graph_runner(parameters.values().device()));
    }
    TrainingResult result;
    while (progress.step < total_steps) {
      if (out_of_patience()) {
        result.stopped_early = true;
        break;
      }
      const StepMetrics metrics = take_step(graphs ? &*graphs : nullptr);
      if (on_step) {
        on_step(metrics);
      }
      const bool last = progress.step == total_steps || out_of_patience();
      if (stop_requested && !last) {
        save_checkpoint();
        result.interrupted = true;
        break;
      }
      if (options.save_every() > 0 && (last || progress.step % options.save_every() == 0)) {
        save_checkpoint();
      }
    }
    return result;
  }

  CausalLM model;
  std::vector<Example> examples;
  std::vector<Example> validation;
  TrainerOptions options;
  FlatParameters parameters;
  AdamW optimizer;
  detail::StepPlan plan;
  StepBatches next;  ///< made ahead
  int64_t total_steps = 0;
  detail::RunFingerprint fingerprint;
  bool restored = false;
  detail::Progress progress;
  std::function<void(const StepMetrics&)> on_step;
  std::function<void(const std::filesystem::path&)> save;
  std::atomic<bool> stop_requested = false;
};

Trainer::Trainer(CausalLM model, std::vector<Example> examples, TrainerOptions options) {
  options.validate();
  if (examples.empty()) {
    throw std::invalid_argument("there is no example to train on");
  }
  state_ = std::make_unique<State>(std::move(model), std::move(examples), std::move(options));
}

Trainer::~Trainer() = default;

void Trainer::set_validation(std::vector<Example> examples) {
  state_->fingerprint["validation"] = detail::examples_fingerprint(examples);
  state_->validation = std::move(examples);
}

void Trainer::set_fingerprint(const std::map<std::string, std::string>& entries) {
  state_->fingerprint.insert(entries.begin(), entries.end());
}

void Trainer::set_callback(std::function<void(const StepMetrics&)> on_step) {
  state_->on_step = std::move(on_step);
}

void Trainer::set_save(std::function<void(const std::filesystem::path&)> save) {
  state_->save = std::move(save);
}

int64_t Trainer::total_steps() const {
  return state_->total_steps;
}

int64_t Trainer::restore() {
  State& state = *state_;
  if (!state.restored && state.options.resume()) {
    if (const auto checkpoint = detail::last_checkpoint(state.options.output())) {
      state.progress = detail::load_training_state(
          *checkpoint, state.parameters, state.optimizer, state.fingerprint, state.total_steps);
    }
    state.restored = true;
  }
  return state.progress.step;
}

TrainingResult Trainer::train() {
  restore();
  State& state = *state_;
  state.model->train();
  TrainingResult result = state.take_steps();
  state.model->eval();
  if (!result.interrupted && state.progress.best_values.defined()) {
    at::NoGradGuard no_grad;
    state.parameters.values().copy_(state.progress.best_values);
    state.parameters.mark_changed();
  }
  result.steps = state.progress.step;
  result.best_eval_loss = state.progress.best_eval_loss;
  result.best_step = state.progress.best_step;
  return result;
}

void Trainer::request_stop() noexcept {
  state_->stop_requested = true;
}

}  // namespace rora
