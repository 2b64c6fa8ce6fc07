#include "start_flags.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/initializers/edora.h>
#include <rora/adapters/initializers/eva.h>
#include <rora/adapters/initializers/lora_one.h>
#include <rora/adapters/initializers/lora_sb.h>
#include <rora/adapters/initializers/olora.h>
#include <rora/adapters/initializers/singular_vectors.h>
#include <rora/error.h>
#include <rora/training/run_digest.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <system_error>

namespace rora::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kMaxRank = 65536;

/// A value of --init, or the start of the method of that name, which says what it is.
struct StartEntry {
  const char* name;
  const char* about; ///< null: of a method
  std::vector<std::string> flags; ///< those that are its own
  std::shared_ptr<const Initializer> (*make)(const StartFlags& flags);
};

const std::vector<StartEntry>& entries() {
  static const std::vector<StartEntry> all{
      {"default",
       "A uniform in +-1/sqrt(in), B zero (LoRA, arXiv 2106.09685)",
       {},
       [](const StartFlags&) { return std::shared_ptr<const Initializer>(); }},
      {"gaussian",
       "A normal with deviation 1/rank, B zero (PEFT's gaussian)",
       {},
       [](const StartFlags&) { return gaussian(); }},
      {"gora",
       "ranks by how much the loss cares for each weight, B a step down its gradient (GoRA, arXiv 2502.12171)",
       {"min-rank", "max-rank", "gora-batches", "gora-adaptive-batches", "gora-gamma", "gora-adaptive-gamma",
        "capture-memory"},
       [](const StartFlags& flags) {
         return gora(flags.gora_adaptive_gamma ? GoRAOptions(flags.gora).gamma(1.0) : flags.gora);
       }},
      {"lora-ga",
       "A and B from the gradient's singular vectors, W changed so that nothing changes (LoRA-GA, arXiv 2407.05000)",
       {"lora-ga-gamma", "lora-ga-form", "capture-batches", "capture-memory"},
       [](const StartFlags& flags) { return lora_ga(flags.lora_ga); }},
      {"lora-one",
       "B*A the best step of its rank down the gradient (LoRA-One, arXiv 2502.01235)",
       {"lora-one-gamma", "capture-batches", "capture-memory"},
       [](const StartFlags& flags) { return lora_one(flags.lora_one_gamma); }},
      {"pissa",
       "the first singular values of W are trained (PiSSA, arXiv 2404.02948)",
       {"pissa-iterations"},
       [](const StartFlags& flags) { return pissa(flags.pissa_iterations); }},
      {"milora",
       "the last singular values of W are trained (MiLoRA, arXiv 2406.09044)",
       {},
       [](const StartFlags&) { return milora(); }},
      {"olora",
       "the first columns of an orthogonal factorisation of W are trained (OLoRA, arXiv 2406.01775)",
       {},
       [](const StartFlags&) { return olora(); }},
      {"eva",
       "A and ranks by the directions in which inputs vary most, B zero (EVA, arXiv 2410.07170)",
       {"eva-rho", "capture-batches", "capture-memory"},
       [](const StartFlags& flags) { return eva(flags.eva_rho); }},
      {"lora-sb",
       nullptr,
       {"lora-sb-step", "capture-batches", "capture-memory"},
       [](const StartFlags& flags) { return lora_sb(flags.step()); }},
      {"edora", nullptr, {}, [](const StartFlags&) { return edora(); }}};
  return all;
}

const StartEntry& entry(const std::string& name) {
  return *std::find_if(entries().begin(), entries().end(), [&](const StartEntry& each) { return name == each.name; });
}

/// What asks for a start that reads the flag: "--init lora-ga or lora-one", "--method lora-sb".
std::string flags_with(const std::string& flag) {
  std::string inits, methods;
  for (const StartEntry& each : entries()) {
    if (std::find(each.flags.begin(), each.flags.end(), flag) != each.flags.end()) {
      std::string& names = each.about != nullptr ? inits : methods;
      names += (names.empty() ? "" : " or ") + std::string(each.name);
    }
  }
  return (inits.empty() ? "" : "--init " + inits) + (inits.empty() || methods.empty() ? "" : " or ") +
      (methods.empty() ? "" : "--method " + methods);
}

/// Whether it reads what must be captured.
bool reads_statistics(const Initializer& initializer) {
  return initializer.needs_gradient() || initializer.needs_input_moment();
}

std::string text_of(double value) {
  return Json(value).dump();
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

const std::vector<Described>& starts() {
  static const std::vector<Described> all = [] {
    std::vector<Described> described;
    for (const StartEntry& each : entries()) {
      if (each.about != nullptr) {
        described.push_back({each.name, each.about});
      }
    }
    return described;
  }();
  return all;
}

void StartFlags::add(Flags& flags) {
  flags.choice("init", init, starts(), "How the adapter begins");
  add_options(flags);
  flags.add(
      "statistics", statistics,
      "A file of what gora, lora-ga, lora-one, eva and lora-sb capture: read where it is there, else written (default: "
      "none)");
}

void StartFlags::add_options(Flags& flags) {
  flags.add("min-rank", gora.min_rank(), "GoRA's least rank of a module; 0: half of --rank, which is the budget's")
      .between(0, kMaxRank);
  flags.add("max-rank", gora.max_rank(), "GoRA's largest rank of a module; 0: four times --rank").between(0, kMaxRank);
  flags.add("gora-batches", gora_batches, "The first batches of the training over which GoRA's gradient is the mean")
      .between(1, kMaxCount);
  flags.add(
      "gora-adaptive-batches", gora_adaptive_batches,
      "End GoRA's batches once no weight's importance changes by a tenth (default: off)");
  const Flag gamma =
      flags.add("gora-gamma", gora.gamma(), "GoRA's first change of a weight, as a share of its gradient")
          .at_least(0.0);
  flags
      .add(
          "gora-adaptive-gamma", gora_adaptive_gamma,
          "Take of 1, 0.8, 0.64, ... the one at which the first batch's loss is least, in place of --gora-gamma "
          "(default: off)")
      .excludes(gamma);
  flags.add("capture-batches", capture_batches, "How many of the first batches lora-ga, lora-one, eva and lora-sb read")
      .between(1, kMaxCount);
  flags
      .add(
          "capture-memory", capture_memory,
          "MiB of gradients or moments that are held at once, each group of weights by passes of its own; 0: as many "
          "as the "
          "model's weights take")
      .between(0, kMaxCount);
  flags.add("lora-ga-gamma", lora_ga.gamma(), "LoRA-GA's gamma: the larger, the smaller the factors").positive();
  flags.choice<LoRAGAForm>(
      "lora-ga-form", lora_ga.form(), {{"paper", LoRAGAForm::kPaper}, {"peft", LoRAGAForm::kPeft}},
      "LoRA-GA's factors without the singular values, or with them as in PEFT");
  flags.add("lora-one-gamma", lora_one_gamma, "LoRA-One's gamma: the first change's size is scale/gamma").positive();
  flags.add("pissa-iterations", pissa_iterations, "Iterations of PiSSA's randomised decomposition; 0: an exact one")
      .between(0, kMaxCount);
  flags.add("eva-rho", eva_rho, "EVA's largest rank of a module, as a multiple of --rank").at_least(1.0);
  flags
      .add(
          "lora-sb-step", lora_sb_step,
          "How far the step goes in each number of a weight that LoRA-SB begins from; 0: the learning rate, divided by "
          "the "
          "steps of warm-up")
      .at_least(0.0);
}

std::map<std::string, std::string> start_flag_owners() {
  std::map<std::string, std::string> owners;
  for (const StartEntry& each : entries()) {
    for (const std::string& flag : each.flags) {
      owners[flag] += (owners[flag].empty() ? "" : " or ") + std::string(each.name);
    }
  }
  return owners;
}

bool owns(const std::string& init, const std::string& flag) {
  const std::vector<std::string>& own = entry(init).flags;
  return std::find(own.begin(), own.end(), flag) != own.end();
}

std::vector<std::string> StartFlags::changed() const {
  const StartFlags defaults;
  std::vector<std::string> names;
  const auto add = [&](const char* name, bool differs) {
    if (differs) {
      names.push_back(name);
    }
  };
  add("min-rank", gora.min_rank() != defaults.gora.min_rank());
  add("max-rank", gora.max_rank() != defaults.gora.max_rank());
  add("gora-batches", gora_batches != defaults.gora_batches);
  add("gora-adaptive-batches", gora_adaptive_batches);
  add("gora-gamma", gora.gamma() != defaults.gora.gamma());
  add("gora-adaptive-gamma", gora_adaptive_gamma);
  add("capture-batches", capture_batches != defaults.capture_batches);
  add("capture-memory", capture_memory != defaults.capture_memory);
  add("lora-ga-gamma", lora_ga.gamma() != defaults.lora_ga.gamma());
  add("lora-ga-form", lora_ga.form() != defaults.lora_ga.form());
  add("lora-one-gamma", lora_one_gamma != defaults.lora_one_gamma);
  add("pissa-iterations", pissa_iterations != defaults.pissa_iterations);
  add("eva-rho", eva_rho != defaults.eva_rho);
  add("lora-sb-step", lora_sb_step != defaults.lora_sb_step);
  return names;
}

void StartFlags::check() const {
  for (const std::string& flag : changed()) {
    if (!owns(init, flag)) {
      throw UsageError("--" + flag + " needs " + flags_with(flag));
    }
  }
  if (statistics && !owns(init, "capture-memory")) {
    throw UsageError("--statistics needs " + flags_with("capture-memory"));
  }
  if (init == "lora-sb" && step() <= 0.0) {
    throw UsageError("--lora-sb-step is 0, and so is --lr, from which it would follow");
  }
  if (gora.max_rank() > 0 && gora.max_rank() < gora.min_rank()) {
    throw UsageError("--max-rank must be at least --min-rank");
  }
}

void StartFlags::follow(double lr, int64_t warmup_steps) {
  first_lr = lr / static_cast<double>(std::max<int64_t>(1, warmup_steps));
}

double StartFlags::step() const {
  return lora_sb_step > 0.0 ? lora_sb_step : first_lr;
}

std::shared_ptr<const Initializer> StartFlags::initializer() const {
  return entry(init).make(*this);
}

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

std::map<std::string, std::string> Start::begun_from(
    const CausalLM& model, const AdapterOptions& options, const std::vector<Example>& examples,
    const BatchOptions& batches) const {
  auto from = captured_from(model, options, examples, batches);
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
  std::map<std::string, std::string> from;
  if (flags_.statistics) {
    from = captured_from(model, options, examples, batches);
    std::error_code error;
    if (fs::exists(*flags_.statistics, error)) {
      return load_statistics(*flags_.statistics, from);
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
    save_statistics(*flags_.statistics, captured, from);
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
  if (kept) {
    from_ = begun_from(model, options, examples, batches);
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
  seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
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
