#include "method_flags.h"

namespace rora::cli {
namespace {

constexpr int64_t kMaxRank = 65536;

} // namespace

void MethodFlags::add(Flags& flags) {
  flags
      .add(
          "adalora-init-r", adalora_init_r,
          "Ranks of each module before AdaLoRA takes some, down to --rank in the mean; 0: half as many again as --rank")
      .between(0, kMaxRank);
  flags
      .add(
          "adalora-tinit", adalora.tinit(),
          "Steps before AdaLoRA takes ranks (default: a sixth of the run, as in the authors' example)")
      .between(0, kMaxCount);
  flags
      .add(
          "adalora-tfinal", adalora.tfinal(),
          "Steps at the end in which AdaLoRA's ranks stay as they are (default: half of the run)")
      .between(0, kMaxCount);
  flags.add("adalora-delta-t", adalora.delta_t(), "AdaLoRA gives out ranks at every so many steps")
      .between(1, kMaxCount);
  flags.add("adalora-beta1", adalora.beta1(), "How much of the smoothed importance stays at a step")
      .positive()
      .in_range(0.0, 1.0);
  flags.add("adalora-beta2", adalora.beta2(), "The same of its uncertainty").positive().in_range(0.0, 1.0);
  flags
      .add(
          "adalora-orth-reg-weight", adalora.orth_reg_weight(),
          "Weight of the loss that keeps rows of AdaLoRA's A and columns of its B orthonormal")
      .at_least(0.0);
  flags
      .add(
          "sora-gate-loss-weight", sora.gate_loss_weight(),
          "Weight of the mean of SoRA's gates, without their signs, in the loss")
      .at_least(0.0);
  flags.add("sora-threshold", sora.threshold(), "How much nearer to 0 each of SoRA's gates is after every step")
      .at_least(0.0);
  flags.add(
      "dylora-train-all", dylora_train_all,
      "Train all of the ranks that DyLoRA draws for a step, not the last of them alone (default: off)");
}

void MethodFlags::refuse_unread(const std::optional<std::string>& method) const {
  const MethodFlags defaults;
  const auto require = [&](const char* owner, const char* flag, bool differs) {
    if (differs && method != owner) {
      throw UsageError("--" + std::string(flag) + " needs --method " + owner);
    }
  };
  const auto of_adalora = [&](const char* flag, bool differs) { require("adalora", flag, differs); };
  of_adalora("adalora-init-r", adalora_init_r != defaults.adalora_init_r);
  of_adalora("adalora-tinit", adalora.tinit() != defaults.adalora.tinit());
  of_adalora("adalora-tfinal", adalora.tfinal() != defaults.adalora.tfinal());
  of_adalora("adalora-delta-t", adalora.delta_t() != defaults.adalora.delta_t());
  of_adalora("adalora-beta1", adalora.beta1() != defaults.adalora.beta1());
  of_adalora("adalora-beta2", adalora.beta2() != defaults.adalora.beta2());
  of_adalora("adalora-orth-reg-weight", adalora.orth_reg_weight() != defaults.adalora.orth_reg_weight());
  require("sora", "sora-gate-loss-weight", sora.gate_loss_weight() != defaults.sora.gate_loss_weight());
  require("sora", "sora-threshold", sora.threshold() != defaults.sora.threshold());
  require("dylora", "dylora-train-all", dylora_train_all);
}

} // namespace rora::cli
