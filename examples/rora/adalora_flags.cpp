#include "adalora_flags.h"

namespace rora::cli {
namespace {

constexpr int64_t kMaxRank = 65536;

const char* const kNames[]{"adalora-init-r", "adalora-tinit", "adalora-tfinal",         "adalora-delta-t",
                           "adalora-beta1",  "adalora-beta2", "adalora-orth-reg-weight"};

} // namespace

void AdaLoraFlags::add(Flags& flags) {
  flags
      .add(
          "adalora-init-r", init_r,
          "Ranks of each module before AdaLoRA takes some, down to --rank in the mean; 0: half as many again as --rank")
      .between(0, kMaxRank);
  flags
      .add(
          "adalora-tinit", options.tinit(),
          "Steps before AdaLoRA takes ranks (default: a sixth of the run, as in the authors' example)")
      .between(0, kMaxCount);
  flags
      .add(
          "adalora-tfinal", options.tfinal(),
          "Steps at the end in which AdaLoRA's ranks stay as they are (default: half of the run)")
      .between(0, kMaxCount);
  flags.add("adalora-delta-t", options.delta_t(), "AdaLoRA gives out ranks at every so many steps")
      .between(1, kMaxCount);
  flags.add("adalora-beta1", options.beta1(), "How much of the smoothed importance stays at a step, above 0")
      .in_range(0.0, 1.0);
  flags.add("adalora-beta2", options.beta2(), "The same of its uncertainty, above 0").in_range(0.0, 1.0);
  flags
      .add(
          "adalora-orth-reg-weight", options.orth_reg_weight(),
          "Weight of the loss that keeps rows of AdaLoRA's A and columns of its B orthonormal")
      .at_least(0.0);
}

void AdaLoraFlags::refuse(const Flags& flags) {
  for (const char* name : kNames) {
    if (flags.given(name)) {
      throw UsageError(std::string("--") + name + " needs --method adalora");
    }
  }
}

} // namespace rora::cli
