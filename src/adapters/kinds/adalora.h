#pragma once

#include <rora/adapters/adalora.h>
#include <rora/adapters/adapter_kind.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rora::detail {

/// Which of the first `init_r` ranks the adapters of modules have, by whole name; of a module that is not there, all.
using KeptRanks = std::map<std::string, std::vector<bool>>;

/// PEFT's ADALORA.
class AdaLoraKind final : public AdapterKind {
 public:
  explicit AdaLoraKind(const AdaLoraOptions& options, KeptRanks kept = {});

  const AdaLoraOptions& options() const {
    return options_;
  }

  /// What is left of a module's ranks.
  int64_t rank(const std::string& module) const;

  std::string peft_type() const override;
  void validate(const std::string& module, const ProjectionImpl& projection) const override;
  void check_modules(const std::vector<std::string>& modules) const override;
  std::shared_ptr<Adapter> make(
      const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const override;
  std::vector<AdapterTensor> tensors(const std::string& module, const ProjectionImpl& projection) const override;
  void write(JsonFields& config) const override;
  void describe(JsonFields& fields) const override;
  std::shared_ptr<const AdapterKind> with_dropout(double dropout) const override;
  std::shared_ptr<const AdapterKind> as_saved(const std::vector<NamedAdapter>& adapters, bool portable) const override;

 private:
  const AdaLoraOptions options_;
  const KeptRanks kept_;
};

/// α/(init_r + 1e-5).
double adalora_scale(const AdaLoraOptions& options);

AdapterKindEntry adalora_entry();

} // namespace rora::detail
