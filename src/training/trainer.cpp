#include <rora/training/trainer.h>

#include "fingerprint.h"
#include "mix.h"
#include "step_plan.h"
#include "training_state.h"

#include <rora/core/projection.h>
#include <rora/evaluation/perplexity.h>
#include <rora/training/train_step.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <chrono>
#include <set>

namespace rora {
namespace {

using detail::mix;

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

std::unique_ptr<Optimizer> make_optimizer(ParameterTable& parameters, const TrainerOptions& options) {
  auto optimizer =
      options.optimizer() ? options.optimizer()(parameters) : std::make_unique<AdamW>(parameters, options.adamw());
  TORCH_CHECK_VALUE(optimizer != nullptr, "the factory in `optimizer` made no optimiser");
  return optimizer;
}

/// How many workers train together.
int64_t workers_of(const TrainerOptions& options) {
  return options.reducer() != nullptr ? options.reducer()->world_size() : 1;
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
        plan(this->examples, this->options.batches(), this->options.grad_accum() * workers_of(this->options)) {
    total_steps =
        this->options.max_steps() > 0 ? this->options.max_steps() : plan.steps_of_epochs(this->options.epochs());
    step.set_reducer(this->options.reducer());
    step.set_total_steps(total_steps);
    fingerprint = detail::run_fingerprint(this->options, total_steps, this->model, parameters, *optimizer);
    fingerprint["data"] = detail::examples_fingerprint(this->examples);
    fingerprint["validation"] = detail::examples_fingerprint({});
  }

  /// A step's batches on the CPU.
  struct PlannedStep {
    int64_t epoch = 0;
    bool ends_epoch = false;
    StepBatches batches;
    int64_t tokens = 0;
  };

  PlannedStep make_step(int64_t number) {
    const auto planned = plan.step(number);
    PlannedStep made;
    made.epoch = planned.epoch;
    made.ends_epoch = planned.ends_epoch;
    made.batches.number = number;
    made.batches.seed = step_seed(number);
    made.batches.places = std::ssize(planned.batches);
    for (int64_t place = 0; place < made.batches.places; ++place) {
      const auto& rows = planned.batches[static_cast<size_t>(place)];
      made.batches.labelled_tokens += count_labelled_tokens(examples, rows);
      for (const auto& row : rows) {
        for (const int64_t index : row) {
          made.tokens += std::ssize(examples[static_cast<size_t>(index)].input_ids);
        }
      }
      if (place % workers_of(options) == rank()) {
        made.batches.batches.push_back({make_batch(examples, rows), place, batch_seed(number, place)});
      }
    }
    return made;
  }

  uint64_t batch_seed(int64_t number, int64_t place) const {
    const uint64_t of_step = static_cast<uint64_t>(number) * 0x10001;
    return mix(mix(options.batches().seed()) ^ mix(of_step + static_cast<uint64_t>(place)));
  }

  uint64_t step_seed(int64_t number) const {
    return mix(~batch_seed(number, 0));
  }

  int64_t rank() const {
    return options.reducer() != nullptr ? options.reducer()->rank() : 0;
  }

  StepMetrics take_step() {
    const auto begin = std::chrono::steady_clock::now();
    const PlannedStep taken =
        next && next->batches.number == progress.step ? *std::move(next) : make_step(progress.step);
    StepMetrics metrics;
    metrics.lr = learning_rate(options.schedule(), options.lr(), progress.step, options.warmup_steps(), total_steps);
    // All of the step is queued before a GPU is waited for, and the next batches are made meanwhile.
    step.queue(taken.batches, metrics.lr);
    next.reset();
    if (progress.step + 1 < total_steps) {
      next = make_step(progress.step + 1);
    }
    const StepFigures figures = step.finish();
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
    const bool due = options.eval_every() > 0 ? progress.step % options.eval_every() == 0 : taken.ends_epoch;
    if (!validation.empty() && (due || progress.step == total_steps)) {
      metrics.eval_loss = validate();
    }
    return metrics;
  }

  double validate() {
    const double loss = evaluate_perplexity(model, validation, options.batches().batch_size()).loss;
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
    if (workers_of(options) == 1) {
      return asked;
    }
    const at::Tensor sum = figures({asked ? 1.0 : 0.0});
    options.reducer()->sum_figures(sum);
    return sum.item<double>() > 0.0;
  }

  /// Throws where workers would train on from unlike values or places.
  void check_workers() const {
    if (workers_of(options) == 1) {
      return;
    }
    const at::Tensor own = figures({parameters.values().norm().item<double>(), static_cast<double>(progress.step)});
    const at::Tensor sum = own.clone();
    options.reducer()->sum_figures(sum);
    TORCH_CHECK_VALUE(
        at::allclose(sum, own * workers_of(options), /*rtol=*/1e-9, /*atol=*/0.0),
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
    while (progress.step < total_steps) {
      if (out_of_patience()) {
        result.stopped_early = true;
        break;
      }
      const StepMetrics metrics = take_step();
      if (on_step) {
        on_step(metrics);
      }
      const bool last = progress.step == total_steps || out_of_patience();
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
    if (!options.output().empty() && rank() == 0) {
      detail::save_training_state(options.output(), progress, parameters, kept_state(), fingerprint, save);
    }
  }

  void restore() {
    for (const auto& hook : step.hooks()) {
      hook->begin(step.context(0, step_seed(0), 0.0));
    }
    const auto checkpoint = options.resume() ? detail::last_checkpoint(options.output()) : std::nullopt;
    if (checkpoint) {
      progress = detail::load_training_state(*checkpoint, parameters, kept_state(), fingerprint, total_steps);
      optimizer->steps = progress.step;
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
  detail::StepPlan plan;
  std::optional<PlannedStep> next; ///< made ahead
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
  TORCH_CHECK_VALUE(!examples.empty(), "there is no example to train on");
  check_model(model);
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

int64_t Trainer::total_steps() const {
  return state_->total_steps;
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
  state.check_workers();
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

} // namespace rora
