// Weights whose rows have room for an adapter's B, computed with on the CPU in a GPU's form of the adapter.

#include <rora/core/low_rank_adapter.h>
#include <rora/core/low_rank_linear.h>
#include <rora/core/low_rank_matrices.h>
#include <rora/model/decoder.h>
#include <rora/model/weights_with_room.h>
#include <rora/ops/weight_with_room.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/serialize/archive.h>

#include <memory>
#include <sstream>
#include <vector>

namespace rora {
namespace {

constexpr int64_t kIn = 24, kOut = 10, kRank = 5;

std::shared_ptr<ops::LinearWeight> weight_with_room(const at::Tensor& w, int64_t rank) {
  return ops::weights_with_room({w}, rank)[0];
}

ops::LowRankTerm term_of(std::shared_ptr<const ops::LinearWeight> weight) {
  ops::LowRankTerm term;
  term.weight = std::move(weight);
  at::manual_seed(5);
  term.a = at::randn({kRank, kIn}).set_requires_grad(true);
  term.b = at::randn({kOut, kRank}).set_requires_grad(true);
  return term;
}

TEST(WeightWithRoom, IsTheWeightAndKeepsWhatIsPutBesideIt) {
  const at::Tensor w = at::randn({kOut, kIn}).to(at::kBFloat16);
  const auto roomy = weight_with_room(w, 16);
  EXPECT_TRUE(at::equal(roomy->tensor(), w));
  const at::Tensor room = roomy->beside(8);
  ASSERT_EQ(room.sizes(), (std::vector<int64_t>{kOut, 8}));
  EXPECT_EQ(room.strides(), roomy->tensor().strides());
  EXPECT_EQ(room.storage_offset(), roomy->tensor().storage_offset() + kIn);
  const auto version = roomy->tensor()._version();
  room.fill_(7.0);
  roomy->below(8).fill_(7.0);
  EXPECT_TRUE(at::equal(roomy->tensor(), w));
  EXPECT_EQ(roomy->tensor()._version(), version) << "what follows from W would be made anew";
  EXPECT_TRUE(roomy->beside(16).defined());
  EXPECT_FALSE(roomy->beside(17).defined());
  EXPECT_FALSE(ops::DenseWeight(w).beside(1).defined());
}

TEST(WeightWithRoom, HasNoneForATensorThatWasMoved) {
  const auto roomy = weight_with_room(at::randn({kOut, kIn}), 8);
  const auto block = roomy->tensor().storage().getWeakStorageImpl();
  roomy->tensor().set_data(roomy->tensor().clone(at::MemoryFormat::Contiguous));
  EXPECT_TRUE(block.expired()) << "memory that nobody reads is kept";
  EXPECT_FALSE(roomy->beside(8).defined());
  EXPECT_FALSE(roomy->below(8).defined());
  EXPECT_ANY_THROW(weight_with_room(at::randn({3}), 8));
  EXPECT_ANY_THROW(weight_with_room(at::randn({3, 4}), 0));
  EXPECT_ANY_THROW(ops::weights_with_room({}, 8));
  EXPECT_ANY_THROW(ops::weights_with_room({at::randn({3, 4}), at::randn({3, 5})}, 8));
}

// A GPU's form: A and B in the activations' dtype, ranks made up to a multiple of 8.
TEST(WeightWithRoom, GivesTheSameOutputsAndGradients) {
  const at::Tensor w = at::randn({kOut, kIn}).to(at::kBFloat16);
  const at::Tensor x = at::randn({2, 3, kIn}).to(at::kBFloat16).set_requires_grad(true);
  const auto roomy = weight_with_room(w, 8);
  const std::vector<std::shared_ptr<ops::LinearWeight>> weights{std::make_shared<ops::DenseWeight>(w), roomy};
  std::vector<std::vector<at::Tensor>> results;
  for (const auto& weight : weights) {
    const ops::LowRankTerm term = term_of(weight);
    const ops::detail::LowRankForm form{at::kBFloat16, 8};
    // Two terms of one W: only one B can stand beside it.
    const auto outputs = ops::detail::low_rank_linear_in(form, x, {term, term});
    std::vector<at::Tensor> all = outputs;
    const std::vector<at::Tensor> from{outputs[0].detach(), outputs[1].detach()};
    for (at::Tensor& each : torch::autograd::grad(outputs, {x, term.a, term.b}, from)) {
      all.push_back(std::move(each));
    }
    results.push_back(std::move(all));
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << i;
  }
  const at::Tensor b = term_of(roomy).b.detach().to(at::kBFloat16);
  EXPECT_TRUE(at::equal(roomy->beside(8).narrow(1, 0, kRank), b));
  EXPECT_EQ(roomy->beside(8).narrow(1, kRank, 8 - kRank).count_nonzero().item<int64_t>(), 0);
}

size_t saved_bytes(const ProjectionImpl& projection) {
  torch::serialize::OutputArchive archive;
  projection.save(archive);
  std::stringstream stream;
  archive.save_to(stream);
  return stream.str().size();
}

TEST(LeaveRoomBesideWeights, ChangesNothingThatAModelComputesOrSaves) {
  at::manual_seed(3);
  DecoderForCausalLM model(DecoderOptions()
                               .hidden_size(16)
                               .intermediate_size(24)
                               .num_hidden_layers(1)
                               .vocab_size(32)
                               .num_attention_heads(2)
                               .num_key_value_heads(1));
  for (at::Tensor& parameter : model->parameters()) {
    at::NoGradGuard no_grad;
    parameter.normal_();
  }
  ProjectionImpl& projection = *model->model->layers->at<DecoderLayerImpl>(0).self_attn->q_proj;
  projection.attach("default", std::make_shared<LowRankAdapter>(projection, LowRankOptions().rank(4)));
  ModelInput input;
  input.input_ids = at::arange(6).view({1, 6});
  const at::Tensor logits = model->forward(input);
  const at::Tensor weight = projection.weight.clone();
  leave_room_beside_weights(model, 4);
  EXPECT_EQ(projection.weight.stride(0), 16 + 8);
  EXPECT_TRUE(at::equal(projection.weight, weight));
  EXPECT_TRUE(at::equal(model->forward(input), logits));
  EXPECT_TRUE(projection.base().beside(8).defined());

  projection.merge();
  projection.unmerge();
  EXPECT_TRUE(at::equal(model->forward(input), logits));
  const auto copy = std::dynamic_pointer_cast<ProjectionImpl>(projection.clone());
  const at::Tensor x = at::randn({3, 16});
  EXPECT_TRUE(at::equal(copy->forward(x), projection.forward(x)));
  EXPECT_FALSE(copy->base().beside(8).defined());

  EXPECT_EQ(saved_bytes(projection), saved_bytes(*copy)) << "the archive holds more than the weight";

  projection.weight.set_requires_grad(true);
  EXPECT_ANY_THROW(leave_room_beside_weights(model, 4));
}

} // namespace
} // namespace rora
