#include <rora/training/trainer.h>

#include "fingerprint.h"
#include "step_maker.h"
#include "training_state.h"

#include <rora/checkpoint/folder_lock.h>
#include <rora/core/projection.h>
#include <rora/evaluation/perplexity.h>
#include <rora/training/run_digest.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>
#include <system_error>

namespace rora {
namespace {

/// Throws for a model that cannot be trained as it is.
void check_model(const CausalLM& model) {
  TORCH_CHECK_VALUE(
      model->dtype() != at::kHalf,
      "a model in float16 is not trained, as its gradients would underflow: bring it to bfloat16 or float32");
  for (const auto& item : model->named_modules()) {
    const auto* projection = item.value()->as<ProjectionImpl>();
    TORCH_CHECK_VALUE(
        projection == nullptr || !projection->merged(), "unmerge the adapters before training: that of ", item.key(),
        " is merged, and a merged adapter takes no part in the loss");
  }
}

/// How many steps without any gradient end a run.
constexpr int64_t kStepsWithoutGradient = 10;

bool has_label(const std::vector<Example>& examples) {
  for (int64_t index = 0; index < std::ssize(examples); ++index) {
    if (count_labelled_tokens(examples, {{index}}) > 0) {
      return true;
    }
  }
  return false;
}

std::unique_ptr<Optimizer> make_optimizer(ParameterTable& parameters, const TrainerOptions& options) {
  auto optimizer =
      options.optimizer() ? options.optimizer()(parameters) : std::make_unique<AdamW>(parameters, options.adamw());
  TORCH_CHECK_VALUE(optimizer != nullptr, "the factory in `optimizer` made no optimiser");
  return optimizer;
}

} // namespace

struct Trainer::State {
  State(CausalLM model, std::vector<Example> examples, TrainerOptions options)
      : model(std::move(model)),
        examples(std::move(examples)),
        options(std::move(options)),
        parameters(*this->model, this->options.groups()),
        optimizer(make_optimizer(parameters, this->options)),
        step(this->model, parameters, *optimizer, this->options.clip()),
        maker(this->examples, this->options) {
    total_steps =
        this->options.max_steps() > 0 ? this->options.max_steps() : maker.steps_of_epochs(this->options.epochs());
    step.set_reducer(this->options.reducer());
    step.set_total_steps(total_steps);
    fingerprint = detail::run_fingerprint(this->options, total_steps, this->model, parameters, *optimizer);
    fingerprint["data"] = examples_digest(this->examples);
    fingerprint["validation"] = examples_digest({});
  }

  StepMetrics take_step() {
    const auto begin = std::chrono::steady_clock::now();
    const detail::StepMaker::Step taken =
        next && next->batches.number == progress.step ? *std::move(next) : maker.step(progress.step);
    StepMetrics metrics;
    metrics.lr = learning_rate(options.schedule(), options.lr(), progress.step, options.warmup_steps(), total_steps);
    // All of the step is queued before a GPU is waited for, and the next batches are made meanwhile.
    step.queue(taken.batches, metrics.lr);
    next.reset();
    if (progress.step + 1 < total_steps) {
      next = maker.step(progress.step + 1);
    }
    const StepFigures figures = finish_step();
    metrics.loss = figures.loss;
    metrics.extra_loss = figures.extra_loss;
    metrics.grad_norm = figures.grad_norm;
    metrics.step = ++progress.step;
    metrics.total_steps = total_steps;
    metrics.epoch = taken.epoch;
    metrics.tokens = taken.tokens;
    metrics.labelled_tokens = taken.batches.labelled_tokens;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    metrics.tokens_per_s = static_cast<double>(metrics.tokens) / seconds.count();
    metrics.peak_rss_mib = peak_rss_mib();
    metrics.peak_cuda_mib = peak_cuda_mib(parameters.values().device());
    check_gradient(metrics.grad_norm);
    const bool due = options.eval_every() > 0 ? progress.step % options.eval_every() == 0 : taken.ends_epoch;
    if (!validation.empty() && (due || progress.step == total_steps)) {
      metrics.eval_loss = validate();
    }
    return metrics;
  }

  StepFigures finish_step() {
    try {
      return step.finish();
    } catch (const NotFiniteError& error) {
      fail_not_finite(error.what());
    }
  }

  /// Saves what there is, so that the steps until here are not lost, and throws.
  [[noreturn]] void fail_not_finite(const std::string& what) {
    if (options.output().empty() || progress.step == 0 || !parameters.values().isfinite().all().item<bool>()) {
      throw NotFiniteError(what);
    }
    progress.not_finite = true;
    save_checkpoint();
    throw NotFiniteError(
        what + "; the checkpoint of step " + std::to_string(progress.step) + " may be resumed with another lr");
  }

  /// Throws where a new run begins with steps that all lack a gradient: it would end without having learned anything.
  void check_gradient(double grad_norm) {
    has_gradient = has_gradient || grad_norm != 0.0;
    if (!has_gradient && progress.step == std::min(kStepsWithoutGradient, total_steps)) {
      throw std::runtime_error(
          "the gradient was zero in all of the first " + std::to_string(progress.step) +
          " steps: nothing that is trained changes the loss");
    }
  }

  /// The validation's loss, or nothing where a stop was asked for meanwhile.
  std::optional<double> validate() {
    struct Stopped {};
    progress.validation_due = true;
    double loss = 0.0;
    try {
      const auto look = [this](int64_t) { stop_requested ? throw Stopped() : void(); };
      loss = evaluate_perplexity(model, validation, options.batches().batch_size(), look).loss;
    } catch (const Stopped&) {
      return std::nullopt;
    } catch (const NotFiniteError&) {
      fail_not_finite("the validation loss is not finite after step " + std::to_string(progress.step));
    }
    progress.validation_due = false;
    for (const auto& hook : step.hooks()) {
      if (progress.step < hook->first_best_step()) {
        return loss;
      }
    }
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

  at::Tensor figures(std::vector<double> values) const {
    return at::tensor(values, at::kDouble).to(parameters.values().device());
  }

  /// Whether any worker was asked to stop: all of them then do.
  bool agree_to_stop() const {
    const bool asked = stop_requested;
    if (maker.workers() == 1) {
      return asked;
    }
    const at::Tensor sum = figures({asked ? 1.0 : 0.0});
    options.reducer()->sum_figures(sum);
    return sum.item<double>() > 0.0;
  }

  /// Throws where workers would train on from unlike values or places.
  void check_workers() const {
    if (maker.workers() == 1) {
      return;
    }
    const at::Tensor own = figures({parameters.values().norm().item<double>(), static_cast<double>(progress.step)});
    const at::Tensor sum = own.clone();
    options.reducer()->sum_figures(sum);
    TORCH_CHECK_VALUE(
        at::allclose(sum, own * maker.workers(), /*rtol=*/1e-9, /*atol=*/0.0),
        "the workers begin with unlike parameters or at unlike steps");
  }

  /// All steps that are left, with what follows on each.
  TrainingResult take_steps() {
    std::optional<StepGraphs> graphs;
    if (options.cuda_graph()) {
      const auto why = why_not_captured(model);
      TORCH_CHECK_VALUE(!why, "cuda_graph: ", *why);
      graphs.emplace(model, parameters, cuda_graph_runner(parameters.values().device()));
    }
    step.set_graphs(graphs ? &*graphs : nullptr);
    TrainingResult result;
    if (progress.validation_due) {
      StepMetrics metrics;
      metrics.step = progress.step;
      metrics.total_steps = total_steps;
      metrics.eval_loss = validate();
      if (metrics.eval_loss && on_step) {
        on_step(metrics);
      }
    }
    while (progress.step < total_steps || progress.validation_due) {
      if (out_of_patience()) {
        result.stopped_early = true;
        break;
      }
      if (!progress.validation_due) {
        model->train(); // a callback may have left it in evaluation mode
        const StepMetrics metrics = take_step();
        if (on_step) {
          on_step(metrics);
        }
      }
      const bool last = !progress.validation_due && (progress.step == total_steps || out_of_patience());
      if (agree_to_stop() && !last) {
        save_checkpoint();
        result.interrupted = true;
        break;
      }
      if (options.save_every() > 0 && (last || progress.step % options.save_every() == 0)) {
        save_checkpoint();
      }
    }
    step.set_graphs(nullptr);
    return result;
  }

  /// What the optimiser and the hooks keep, by their names in a checkpoint.
  NamedTensors kept_state() const {
    NamedTensors state = optimizer->state();
    for (const auto& hook : step.hooks()) {
      for (const auto& [name, tensor] : hook->state()) {
        state.emplace_back("hook." + hook->name() + "." + name, tensor);
      }
    }
    std::set<std::string> names{"values", "best_values"};
    for (const auto& [name, tensor] : state) {
      TORCH_CHECK_VALUE(names.insert(name).second, "two tensors of the training state are named '", name, "'");
    }
    return state;
  }

  void save_checkpoint() {
    if (options.output().empty() || maker.rank() != 0) {
      return;
    }
    while (true) {
      try {
        detail::save_training_state(options.output(), progress, parameters, kept_state(), fingerprint, save);
        return;
      } catch (const FileError& error) {
        if (!on_save_error || !on_save_error(error)) {
          throw;
        }
      }
    }
  }

  /// Keeps other processes from writing to the output, and clears it of what a killed one left.
  void take_output() {
    if (options.output().empty() || maker.rank() != 0) {
      return;
    }
    std::error_code error;
    std::filesystem::create_directories(options.output(), error);
    if (error) {
      throw FileError(options.output(), "cannot be made: " + error.message());
    }
    lock.emplace(options.output());
    detail::remove_unfinished_checkpoints(options.output());
  }

  void restore() {
    for (const auto& hook : step.hooks()) {
      hook->begin(step.context(0, maker.step_seed(0), 0.0));
    }
    const auto checkpoint = options.resume() ? detail::last_checkpoint(options.output()) : std::nullopt;
    if (checkpoint) {
      progress = detail::load_training_state(*checkpoint, parameters, kept_state(), fingerprint, total_steps);
      optimizer->steps = progress.step;
      has_gradient = progress.step > 0;
    }
    restored = true;
  }

  CausalLM model;
  std::vector<Example> examples;
  std::vector<Example> validation;
  TrainerOptions options;
  ParameterTable parameters;
  std::unique_ptr<Optimizer> optimizer;
  TrainStep step;
  detail::StepMaker maker;
  std::optional<detail::StepMaker::Step> next; ///< made ahead
  int64_t total_steps = 0;
  detail::RunFingerprint fingerprint;
  bool restored = false;
  bool has_gradient = false; ///< whether any step of the run had one
  detail::Progress progress;
  std::optional<FolderLock> lock;
  std::function<void(const StepMetrics&)> on_step;
  std::function<void(const std::filesystem::path&)> save;
  std::function<bool(const FileError&)> on_save_error;
  std::atomic<bool> stop_requested = false;
};

Trainer::Trainer(CausalLM model, std::vector<Example> examples, TrainerOptions options) {
  options.validate();
  TORCH_CHECK_VALUE(!examples.empty(), "there is no example to train on");
  TORCH_CHECK_VALUE(has_label(examples), "no example has a label to train on");
  check_model(model);
  state_ = std::make_unique<State>(std::move(model), std::move(examples), std::move(options));
}

Trainer::~Trainer() = default;

void Trainer::set_validation(std::vector<Example> examples) {
  TORCH_CHECK_VALUE(examples.empty() || has_label(examples), "no example has a label to validate on");
  state_->fingerprint["validation"] = examples_digest(examples);
  state_->validation = std::move(examples);
}

void Trainer::set_fingerprint(const std::map<std::string, std::string>& entries) {
  state_->fingerprint.insert(entries.begin(), entries.end());
}

const std::map<std::string, std::string>& Trainer::fingerprint() const {
  return state_->fingerprint;
}

void Trainer::set_callback(std::function<void(const StepMetrics&)> on_step) {
  state_->on_step = std::move(on_step);
}

void Trainer::set_save(std::function<void(const std::filesystem::path&)> save) {
  state_->save = std::move(save);
}

void Trainer::set_save_error(std::function<bool(const FileError&)> try_again) {
  state_->on_save_error = std::move(try_again);
}

void Trainer::add_hook(std::shared_ptr<TrainingHook> hook) {
  TORCH_CHECK_VALUE(!state_->restored, "hooks are added before the run is restored");
  state_->fingerprint.merge(detail::hook_fingerprint(*hook));
  state_->step.add_hook(std::move(hook));
}

const std::vector<Example>& Trainer::examples() const {
  return state_->examples;
}

const ParameterTable& Trainer::parameters() const {
  return state_->parameters;
}

const Optimizer& Trainer::optimizer() const {
  return *state_->optimizer;
}

int64_t Trainer::total_steps() const {
  return state_->total_steps;
}

int64_t Trainer::step() const {
  return state_->progress.step;
}

int64_t Trainer::restore() {
  if (!state_->restored) {
    state_->restore();
  }
  return state_->progress.step;
}

TrainingResult Trainer::train() {
  restore();
  State& state = *state_;
  state.take_output();
  state.check_workers();
  state.model->train();
  TrainingResult result = state.take_steps();
  state.stop_requested = false; // a further `train` goes on
  state.model->eval();
  if (!result.interrupted && state.progress.best_values.defined()) {
    at::NoGradGuard no_grad;
    state.parameters.values().copy_(state.progress.best_values);
    state.parameters.mark_changed();
  }
  if (!state.parameters.values().isfinite().all().item<bool>()) {
    throw NotFiniteError(
        "the updates until step " + std::to_string(state.progress.step) + " left values that are not finite");
  }
  result.steps = state.progress.step;
  result.best_eval_loss = state.progress.best_eval_loss;
  result.best_step = state.progress.best_step;
  return result;
}

void Trainer::request_stop() noexcept {
  state_->stop_requested = true;
}

} // namespace rora
