#include "optimizers.h"

#include <rora/training/lora_fa.h>
#include <rora/training/lora_pro.h>
#include <rora/training/lora_rite.h>
#include <rora/training/scaled_gd.h>

namespace rora::cli {

const std::vector<NamedOptimizer>& optimizers() {
  static const std::vector<NamedOptimizer> all{
      {.name = "adamw",
       .about = "Adam with decoupled weight decay (arXiv 1711.05101)",
       .make = [](double) { return OptimizerFactory(); }},
      {.name = "lora-rite",
       .about = "moves B*A alike however it is divided between A and B; --clip is 0 unless given (arXiv 2410.20625)",
       .make = [](double decay) { return lora_rite(LoraRiteOptions().weight_decay(decay)); },
       .reads_raw_gradients = true},
      {.name = "lora-fa",
       .about = "A frozen, no inputs kept for it; B by the change closest to the weight's gradient (PEFT's form; arXiv "
                "2308.03303)",
       .make = [](double decay) { return lora_fa(LoraFaOptions().weight_decay(decay)); },
       .freezes_a = true},
      {.name = "lora-pro",
       .about =
           "AdamW on the gradients that move the weight most like its own; --clip is 0 unless given (arXiv 2407.18242)",
       .make = [](double decay) { return lora_pro(LoraProOptions().adamw(AdamWOptions().weight_decay(decay))); },
       .reads_raw_gradients = true},
      {.name = "lora-pro-full",
       .about = "the same with moments of the whole weights, whose memory it takes; --clip is 0 unless given (arXiv "
                "2407.18242)",
       .make =
           [](double decay) { return lora_pro(LoraProOptions().adamw(AdamWOptions().weight_decay(decay)).full(true)); },
       .reads_raw_gradients = true},
      {.name = "scaled-gd",
       .about = "AdamW on gradients preconditioned by the other factor (PEFT's Riemannian optimiser; arXiv 2402.02347)",
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

std::vector<Described> optimizer_choices() {
  std::vector<Described> choices;
  for (const NamedOptimizer& each : optimizers()) {
    choices.push_back({each.name, each.about});
  }
  return choices;
}

} // namespace rora::cli
