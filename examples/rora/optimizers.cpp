#include "optimizers.h"

#include "flags.h"

#include <rora/training/lora_fa.h>
#include <rora/training/lora_pro.h>
#include <rora/training/lora_rite.h>
#include <rora/training/scaled_gd.h>

#include <algorithm>

namespace rora::cli {

const std::vector<NamedOptimizer>& optimizers() {
  static const std::vector<NamedOptimizer> all{
      {.name = "adamw",
       .summary = "Adam with decoupled weight decay",
       .paper = "arXiv 1711.05101",
       .make = [](double) { return OptimizerFactory(); }},
      {.name = "lora-rite",
       .summary = "moves B*A alike however it is divided between A and B; --clip is 0 unless given",
       .paper = "arXiv 2410.20625",
       .make = [](double decay) { return lora_rite(LoraRiteOptions().weight_decay(decay)); },
       .reads_raw_gradients = true},
      {.name = "lora-fa",
       .summary = "A frozen, no inputs kept for it; B by the change closest to the weight's gradient (PEFT's form)",
       .paper = "arXiv 2308.03303",
       .make = [](double decay) { return lora_fa(LoraFaOptions().weight_decay(decay)); },
       .freezes_a = true},
      {.name = "lora-pro",
       .summary = "AdamW on the gradients that move the weight most like its own; --clip is 0 unless given",
       .paper = "arXiv 2407.18242",
       .make = [](double decay) { return lora_pro(LoraProOptions().adamw(AdamWOptions().weight_decay(decay))); },
       .reads_raw_gradients = true},
      {.name = "lora-pro-full",
       .summary = "the same with moments of the whole weights, whose memory it takes; --clip is 0 unless given",
       .paper = "arXiv 2407.18242",
       .make =
           [](double decay) { return lora_pro(LoraProOptions().adamw(AdamWOptions().weight_decay(decay)).full(true)); },
       .reads_raw_gradients = true},
      {.name = "scaled-gd",
       .summary = "AdamW on gradients preconditioned by the other factor (PEFT's Riemannian optimiser)",
       .paper = "arXiv 2402.02347",
       .make = [](double decay) { return scaled_gd(ScaledGDOptions().adamw(AdamWOptions().weight_decay(decay))); }}};
  return all;
}

const NamedOptimizer& find_optimizer(const std::string& name) {
  std::string names;
  for (const NamedOptimizer& each : optimizers()) {
    if (each.name == name) {
      return each;
    }
    names += (names.empty() ? "" : ", ") + std::string(each.name);
  }
  throw UsageError("--optimizer: '" + name + "' is none of " + names);
}

std::string optimizer_list() {
  size_t width = 0;
  for (const NamedOptimizer& each : optimizers()) {
    width = std::max(width, std::string(each.name).size());
  }
  std::string list;
  for (const NamedOptimizer& each : optimizers()) {
    std::string name = each.name;
    name.resize(width + 2, ' ');
    list += (list.empty() ? "" : "\n") + name + each.summary + " (" + each.paper + ")";
  }
  return list;
}

} // namespace rora::cli
