#include "start.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/initializers/gora.h>
#include <rora/error.h>
#include <rora/training/run_digest.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <system_error>
#include <utility>

namespace rora::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMiB = 1 << 20;

/// Whether it reads what must be captured.
bool reads_statistics(const Initializer& initializer) {
  return initializer.needs_gradient() || initializer.needs_input_moment();
}

std::string text_of(double value) {
  return Json(value).dump();
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int64_t weight_bytes(const CausalLM& model) {
  int64_t bytes = 0;
  for (const at::Tensor& parameter : model->parameters()) {
    bytes += static_cast<int64_t>(parameter.nbytes());
  }
  return bytes;
}

std::string text_of(const ModuleSelection& selection) {
  std::string text = selection.all_linear ? "all-linear" : selection.regex;
  for (const std::string& name : selection.names) {
    text += (text.empty() ? "" : ",") + name;
  }
  return text;
}

} // namespace

Start::Start(const StartFlags& flags, fs::path file, bool goes_on)
    : flags_(flags), file_(std::move(file)), goes_on_(goes_on) {}

bool Start::adapts_batches() const {
  return flags_.init == "gora" && flags_.gora_adaptive_batches;
}

std::map<std::string, std::string> Start::captured_from(
    const CausalLM& model, const AdapterOptions& options, const std::vector<Example>& examples,
    const BatchOptions& batches) const {
  std::map<std::string, std::string> from{
      {"init", flags_.init},
      {"rank", std::to_string(options.low_rank().rank())},
      {"target-modules", text_of(options.target_modules())},
      {"weights", weights_digest(model)},
      {"examples", examples_digest(examples)},
      {"batches", std::to_string(flags_.init == "gora" ? flags_.gora_batches : flags_.capture_batches)},
      {"batch-size", std::to_string(batches.batch_size())},
      {"packing", batches.packing() ? "to " + std::to_string(batches.max_length()) : "off"},
      {"shuffle", batches.shuffle() ? "on" : "off"},
      {"seed", std::to_string(batches.seed())},
      {"dtype", c10::toString(model->dtype())}};
  if (flags_.init == "gora") {
    from["max-rank"] = std::to_string(flags_.gora.max_rank());
    if (adapts_batches()) { // files from before there was such a flag know nothing of it
      from["gora-adaptive-batches"] = "on";
      from["capture-memory"] = std::to_string(flags_.capture_memory); // weights of one pass end together
    }
  } else if (flags_.init == "eva") {
    from["eva-rho"] = text_of(flags_.eva_rho);
  }
  return from;
}

std::map<std::string, std::string> Start::begun_from(const AdapterOptions& options) const {
  auto from = captured_from_;
  from["alpha"] = text_of(options.low_rank().alpha());
  from["scaling"] = options.low_rank().scaling() == Scaling::kStandard ? "standard" : "rank-stabilized";
  from["dora"] = options.low_rank().dora() ? "on" : "off";
  from["min-rank"] = std::to_string(flags_.gora.min_rank());
  from["gora-gamma"] = flags_.gora_adaptive_gamma ? "adaptive" : text_of(flags_.gora.gamma());
  from["lora-ga-gamma"] = text_of(flags_.lora_ga.gamma());
  from["lora-ga-form"] = flags_.lora_ga.form() == LoRAGAForm::kPaper ? "paper" : "peft";
  from["lora-one-gamma"] = text_of(flags_.lora_one_gamma);
  from["pissa-iterations"] = std::to_string(flags_.pissa_iterations);
  if (options.low_rank().core()) { // files from before there were cores know nothing of it
    from["core"] = "on";
  }
  if (flags_.init == "lora-sb") { // as given: a run that goes on at another --lr began with the step of its first
    from["lora-sb-step"] = text_of(flags_.lora_sb_step);
  }
  return from;
}

StatisticsByModule Start::statistics(
    CausalLM model, const AdapterOptions& options, const std::vector<Example>& examples, const BatchOptions& batches,
    const std::function<void(int64_t done, int64_t of)>& on_batch) {
  if (!reads_statistics(*options.low_rank().initializer())) {
    return {};
  }
  const auto begin = std::chrono::steady_clock::now();
  if (shared_) {
    if (auto found = shared_->find(captured_from_)) {
      note_ += found->note + (found->note.empty() ? "" : "; ") + flags_.init + ": captured by an earlier run";
      seconds_ = found->seconds;
      return std::move(found->statistics);
    }
  }
  if (flags_.statistics) {
    std::error_code error;
    if (fs::exists(*flags_.statistics, error)) {
      return load_statistics(*flags_.statistics, captured_from_);
    }
    if (const fs::path folder = fs::absolute(*flags_.statistics).parent_path(); !fs::is_directory(folder, error)) {
      throw FileError(*flags_.statistics, "cannot be written: there is no folder " + folder.string());
    }
  }
  const BatchPlan plan = plan_epoch(examples, batches, 0);
  const auto all = static_cast<int64_t>(plan.size());
  const int64_t asked = flags_.init == "gora" ? flags_.gora_batches : flags_.capture_batches;
  if (asked > all) {
    std::cout << flags_.init << ": captures over the " << all << " batches of the data, not " << asked << std::endl;
  }
  constexpr double kSettled = 0.1; // GoRA's authors'
  const auto capture = CaptureOptions()
                           .batches(std::min(asked, all))
                           .settled(adapts_batches() ? kSettled : 0.0)
                           .memory(flags_.capture_memory > 0 ? flags_.capture_memory * kMiB : weight_bytes(model));
  int64_t most = 0;
  auto captured = capture_statistics(model, options, capture, [&](int64_t i) {
    if (on_batch) {
      on_batch(i, capture.batches());
    }
    most = std::max(most, i + 1);
    const Batch batch = make_batch(examples, plan[static_cast<size_t>(i)]);
    return CaptureBatch{{batch.input_ids, batch.attention_mask, {}, {}}, batch.labels};
  });
  if (adapts_batches()) {
    note_ += "gora: " + std::to_string(most) + " of " + std::to_string(capture.batches()) + " batches are read";
  }
  if (flags_.statistics) {
    save_statistics(*flags_.statistics, captured, captured_from_);
  }
  if (shared_) {
    shared_->keep({captured, seconds_since(begin), note_}, captured_from_);
  }
  return captured;
}

void Start::attach_restored(CausalLM model, const AdapterOptions& options) {
  const auto stored = load_statistics(file_, from_);
  try {
    attach_adapters(*model, options, kDefaultAdapter, stored);
  } catch (const c10::ValueError& problem) {
    throw FormatError(file_, problem.what_without_backtrace());
  }
}

void Start::choose_gamma(CausalLM model, const std::vector<Example>& examples, const BatchOptions& batches) {
  const Batch batch = make_batch(examples, plan_epoch(examples, batches, 0).front());
  const bool was_training = model->is_training();
  model->eval();
  const GoRAGamma found = choose_gora_gamma(*model, 1.0, [&] {
    const LossSum loss = model->loss({batch.input_ids, batch.attention_mask, {}, {}}, batch.labels);
    return loss.sum.item<double>() / static_cast<double>(loss.tokens);
  });
  model->train(was_training);
  note_ += (note_.empty() ? "gora: " : "; ") + ("gamma " + text_of(found.gamma)) +
      ", by which the first batch's loss of " + text_of(found.loss_before) + " becomes " + text_of(found.loss);
}

void Start::attach(
    CausalLM model, AdapterOptions options, const std::vector<Example>& examples, const BatchOptions& batches,
    const std::function<void(int64_t done, int64_t of)>& on_batch) {
  const auto begin = std::chrono::steady_clock::now();
  const auto initializer = flags_.initializer();
  LowRankOptions low_rank = options.low_rank();
  // Others follow from the seed.
  const bool kept = initializer && !file_.empty() &&
      (reads_statistics(*initializer) || initializer->rewrites_base() || low_rank.core());
  std::error_code error;
  restored_ = kept && goes_on_ && fs::exists(file_, error);
  if (kept || flags_.statistics) {
    captured_from_ = captured_from(model, options, examples, batches); // reads every weight
    from_ = begun_from(options);
  }
  if (initializer) {
    options.low_rank(low_rank.initializer(restored_ ? stored_start(initializer) : initializer));
  }
  if (restored_) {
    attach_restored(model, options);
  } else if (initializer) {
    const auto modules = target_modules(*model, options);
    attach_adapters(*model, options, kDefaultAdapter, statistics(model, options, examples, batches, on_batch));
    if (flags_.init == "gora" && flags_.gora_adaptive_gamma) {
      choose_gamma(model, examples, batches);
    }
    if (kept) {
      start_ = start_statistics(*model, modules);
    }
  } else {
    attach_adapters(*model, options);
  }
  seconds_ += seconds_since(begin);
}

void Start::require_kept(int64_t restored) const {
  if (restored > 0 && !restored_ && !start_.empty()) {
    throw FileError(file_, "is not there: it tells how the run began, which --resume goes on with");
  }
}

void Start::keep() const {
  if (!start_.empty()) {
    save_statistics(file_, start_, from_);
  }
}

} // namespace rora::cli
