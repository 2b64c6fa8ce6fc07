#pragma once

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/sora.h>

#include <memory>
#include <string>
#include <vector>

namespace rora::detail {

/// SoRA's adapters, which folders hold as PEFT's LORA. It is never read.
class SoraKind final : public AdapterKind {
 public:
  explicit SoraKind(const SoraOptions& options);

  std::string peft_type() const override;
  void validate(const std::string& module, const ProjectionImpl& projection) const override;
  std::shared_ptr<Adapter> make(
      const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const override;
  std::vector<AdapterTensor> tensors(const std::string& module, const ProjectionImpl& projection) const override;
  void write(JsonFields& config) const override;
  std::shared_ptr<const AdapterKind> with_dropout(double dropout) const override;
  std::shared_ptr<const AdapterKind> as_saved(const std::vector<NamedAdapter>& adapters, bool portable) const override;

 private:
  const SoraOptions options_;
};

} // namespace rora::detail
