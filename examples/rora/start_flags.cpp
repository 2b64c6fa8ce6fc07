#include "start_flags.h"

#include <rora/adapters/initializers/edora.h>
#include <rora/adapters/initializers/eva.h>
#include <rora/adapters/initializers/lora_one.h>
#include <rora/adapters/initializers/lora_sb.h>
#include <rora/adapters/initializers/olora.h>
#include <rora/adapters/initializers/singular_vectors.h>

#include <algorithm>

namespace rora::cli {
namespace {

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

} // namespace rora::cli
