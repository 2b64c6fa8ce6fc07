#pragma once

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/bottleneck.h>

#include <memory>
#include <string>
#include <vector>

namespace rora::detail {

/// BOTTLENECK of LLM-Adapters' fork of PEFT: adapters in series and parallel ones.
class BottleneckKind final : public AdapterKind {
 public:
  explicit BottleneckKind(const BottleneckOptions& options);

  std::string peft_type() const override;
  void validate(const std::string& module, const ProjectionImpl& projection) const override;
  std::shared_ptr<Adapter> make(
      const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const override;
  std::vector<AdapterTensor> tensors(const std::string& module, const ProjectionImpl& projection) const override;
  std::string key(const std::string& module, const std::string& tensor) const override;
  void write(JsonFields& config) const override;
  void describe(JsonFields& fields) const override;
  std::shared_ptr<const AdapterKind> with_dropout(double dropout) const override;
  std::shared_ptr<const AdapterKind> as_saved(const std::vector<NamedAdapter>& adapters, bool portable) const override;

 private:
  const BottleneckOptions options_;
};

AdapterKindEntry bottleneck_entry();

} // namespace rora::detail
