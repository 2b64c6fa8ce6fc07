// A base weight of one's own, in one file: int8 codes with a scale for each row.
#include "support/gradcheck.h"
#include "training.h"

#include <rora/core/low_rank_adapter.h>
#include <rora/core/rora_linear.h>

namespace rora {
namespace {

/// W[i, j] ≈ scales[i]·codes[i, j], each scale such that the row's largest element has the code ±127.
///
/// The tensors are buffers: a projection's state holds them as `weight.codes` and `weight.scales`, and `to(device)`
/// moves them. Products are formed from W dequantised, in the dtype of the other side; a kernel would not form W.
class Int8Weight : public ops::LinearWeight {
 public:
  explicit Int8Weight(const at::Tensor& weight) : Int8Weight(weight.size(0), weight.size(1)) {
    at::NoGradGuard no_grad;
    scales.copy_(weight.abs().amax(1) / 127.0);
    codes.copy_(at::round(weight / scales.clamp_min(1e-12).unsqueeze(1)));
  }

  int64_t in_features() const override {
    return codes.size(1);
  }
  int64_t out_features() const override {
    return codes.size(0);
  }
  at::ScalarType dtype() const override {
    return scales.scalar_type();
  }
  at::Device device() const override {
    return codes.device();
  }
  std::shared_ptr<LinearWeight> empty_copy() const override {
    return std::shared_ptr<LinearWeight>(new Int8Weight(out_features(), in_features()));
  }
  at::Tensor forward(const at::Tensor& x) const override {
    return x.mm(dense().to(x.scalar_type()).t());
  }
  at::Tensor backward(const at::Tensor& dy) const override {
    return dy.mm(dense().to(dy.scalar_type()));
  }
  at::Tensor dense() const override {
    return scales.unsqueeze(1) * codes;
  }

  at::Tensor codes; ///< int8 `[out, in]`
  at::Tensor scales; ///< fp32 `[out]`

 private:
  Int8Weight(int64_t out, int64_t in)
      : codes(register_buffer("codes", at::zeros({out, in}, at::kChar))),
        scales(register_buffer("scales", at::zeros({out}))) {}
};

/// A tiny model whose projections below the head are stored so.
DecoderForCausalLM quantised() {
  auto model = testing::tiny_llama();
  for (const auto& item : model->named_modules("", /*include_self=*/false)) {
    if (auto* projection = item.value()->as<ProjectionImpl>(); projection != nullptr && item.key() != "lm_head") {
      projection->set_base(std::make_shared<Int8Weight>(projection->weight.detach()));
    }
  }
  return model;
}

ProjectionImpl& some_projection(const DecoderForCausalLM& model) {
  return *testing::decoder_of(model)->layers->at<DecoderLayerImpl>(1).mlp->up_proj;
}

struct TrainingOfQuantised : testing::TrainingOfToy {
  explicit TrainingOfQuantised(
      const TrainerOptions& options, bool dora = false, const DecoderForCausalLM& base = quantised())
      : TrainingOfToy(options, base, LowRankOptions().rank(4).alpha(8).dora(dora).dropout(0.1)) {}
};

TrainerOptions options() {
  return TrainerOptions().lr(0.02).max_steps(8).batches(BatchOptions().batch_size(4).seed(5));
}

TEST(Int8Weight, IsTheWeightToHalfAStepOfItsCodes) {
  at::manual_seed(1);
  const at::Tensor weight = at::randn({6, 40});
  const Int8Weight stored(weight);
  EXPECT_EQ(stored.codes.nbytes(), weight.nbytes() / 4);
  const at::Tensor steps = (stored.dense() - weight).abs() / stored.scales.unsqueeze(1);
  EXPECT_LE(steps.max().item<float>(), 0.5001f);
}

TEST(Int8Weight, TakesTheDenseWeightsPlace) {
  const auto model = quantised();
  const ProjectionImpl& projection = some_projection(model);
  EXPECT_FALSE(projection.weight.defined());
  EXPECT_EQ(projection.parameters().size(), 0u);
  EXPECT_TRUE(projection.named_buffers().contains("weight.codes"));
  EXPECT_TRUE(projection.named_buffers().contains("weight.scales"));
}

TEST(Int8Weight, IsTrainedOverAndWhatIsSavedLoads) {
  for (const bool dora : {false, true}) {
    TrainingOfQuantised run(options().max_steps(60), dora);
    const at::Tensor codes = some_projection(run.model).named_buffers()["weight.codes"].clone();
    testing::expect_it_learns_and_loads(run, quantised());
    EXPECT_TRUE(at::equal(some_projection(run.model).named_buffers()["weight.codes"], codes));
  }
}

TEST(Int8Weight, AResumedRunIsTheUninterruptedOneBitForBit) {
  const testing::TemporaryFolder folder;
  const auto resumable = options().output(folder.path()).resume(true);
  testing::expect_resumed_is_uninterrupted<TrainingOfQuantised>(
      [](const TrainerOptions& each) { return std::make_unique<TrainingOfQuantised>(each); }, options(), resumable);
  const auto changed = quantised();
  some_projection(changed).named_buffers()["weight.codes"].neg_();
  TrainingOfQuantised other(resumable, /*dora=*/false, changed);
  EXPECT_THROW(other.trainer->restore(), FormatError) << "another base is another run";
}

TEST(Int8Weight, MergesIntoADenseWeightAndUnmergesItsCodes) {
  TrainingOfQuantised run(options());
  run.trainer->train();
  ProjectionImpl& projection = some_projection(run.model);
  const at::Tensor codes = projection.named_buffers()["weight.codes"].clone();
  const double adapted = run.loss();
  merge_adapters(*run.model);
  EXPECT_TRUE(projection.weight.defined());
  EXPECT_FALSE(projection.named_buffers().contains("weight.codes"));
  EXPECT_NEAR(run.loss(), adapted, 1e-5);
  unmerge_adapters(*run.model);
  EXPECT_FALSE(projection.weight.defined());
  EXPECT_TRUE(at::equal(projection.named_buffers()["weight.codes"], codes));
  EXPECT_EQ(run.loss(), adapted);
}

TEST(Int8Weight, IsClonedAndKeepsItsCodesInAnyDtype) {
  at::manual_seed(2);
  RoRALinear layer(RoRALinearOptions(12, 10).rank(3).alpha(6).dora(true));
  layer->set_base(std::make_shared<Int8Weight>(layer->weight.detach()));
  {
    at::NoGradGuard no_grad;
    layer->low_rank()->lora_B.normal_(0.0, 0.3);
  }
  const at::Tensor x = at::randn({5, 12}), adapted = layer->forward(x).detach();
  const at::Tensor codes = layer->named_buffers()["weight.codes"].clone();
  const auto copy = std::dynamic_pointer_cast<RoRALinearImpl>(layer->clone());
  EXPECT_TRUE(at::equal(copy->forward(x), adapted));
  layer->named_buffers()["weight.codes"].zero_();
  EXPECT_TRUE(at::equal(copy->forward(x), adapted));
  copy->to(at::kBFloat16);
  EXPECT_TRUE(at::equal(copy->named_buffers()["weight.codes"], codes));
  EXPECT_EQ(copy->named_buffers()["weight.scales"].scalar_type(), at::kFloat);
  const at::Tensor narrow = copy->forward(x.to(at::kBFloat16)).detach();
  EXPECT_EQ(narrow.scalar_type(), at::kBFloat16);
  EXPECT_LT(testing::relative_error(narrow.to(at::kFloat), adapted), 0.03);
}

} // namespace
} // namespace rora
