#pragma once

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/adapter_options.h>

#include <memory>
#include <string>
#include <vector>

namespace rora::detail {

/// PEFT's LORA: LoRA, RoRA (rsLoRA) and DoRA, with ranks and alphas by module.
class LowRankKind final : public AdapterKind {
 public:
  explicit LowRankKind(
      LowRankOptions low_rank, ModulePattern<int64_t> rank_pattern = {}, ModulePattern<double> alpha_pattern = {});

  /// The options of a module, patterns applied.
  LowRankOptions for_module(const std::string& module) const;

  std::string peft_type() const override;
  void validate(const std::string& module, const ProjectionImpl& projection) const override;
  void check_statistics(
      const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const override;
  std::shared_ptr<Adapter> make(
      const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const override;
  std::vector<AdapterTensor> tensors(const std::string& module, const ProjectionImpl& projection) const override;
  std::string key(const std::string& module, const std::string& tensor) const override;
  void write(JsonFields& config) const override;
  void describe(JsonFields& fields) const override;
  std::shared_ptr<const AdapterKind> as_saved(const std::vector<NamedAdapter>& adapters, bool portable) const override;
  void put_into(AdapterOptions& options) const override;

 private:
  LowRankOptions low_rank_;
  ModulePattern<int64_t> rank_pattern_;
  ModulePattern<double> alpha_pattern_;
};

/// The kind that `adapters` are of, where they were put in by hand: of the first one's options. Throws
/// `c10::ValueError` where that is no low-rank adapter.
std::shared_ptr<const AdapterKind> low_rank_kind_of(const std::vector<NamedAdapter>& adapters);

/// Throws `c10::ValueError` for a rank that no adapter of a weight `[out, in]` can mean.
void check_rank(const std::string& module, int64_t rank, int64_t in, int64_t out);

/// The key of a pattern that means a module of that name alone.
std::string pattern_key(const std::string& module, const std::vector<NamedAdapter>& adapters);

AdapterKindEntry low_rank_entry();

} // namespace rora::detail
