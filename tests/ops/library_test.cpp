#include <rora/core/dropout.h>
#include <rora/core/low_rank_products.h>

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

namespace rora::ops {
namespace {

// A static library drops registrations that no symbol refers to, without a word.
TEST(Library, DeclaresEveryOperatorWithACpuKernel) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const char* name :
       {"rms_norm",
        "rms_norm_forward",
        "rms_norm_backward",
        "rms_norm_backward_into",
        "add_rms_norm",
        "add_rms_norm_forward",
        "swiglu",
        "swiglu_forward",
        "swiglu_backward",
        "swiglu_backward_into",
        "rotary_embedding",
        "rotary_embedding_forward",
        "rotary_embedding_forward_into",
        "attention",
        "varlen_attention",
        "attention_forward",
        "attention_backward",
        "token_cross_entropy",
        "token_cross_entropy_forward",
        "cross_entropy_rows_",
        "low_rank_linear",
        "low_rank_shrink",
        "rms_norm_shrink_forward",
        "sum_of_products",
        "sum_of_products_",
        "copy_padded_",
        "low_rank_gradient_b",
        "low_rank_gradient_b_into",
        "low_rank_gradient_a",
        "low_rank_gradient_x_",
        "magnitude_gradient",
        "directed_gradient",
        "directed_gradient_into",
        "dora_norm_rows",
        "zero_magnitude_gradient_",
        "dropout"}) {
    const auto schema = dispatcher.findSchema({std::string("rora::") + name, ""});
    ASSERT_TRUE(schema.has_value()) << name;
    EXPECT_TRUE(schema->hasComputedKernelForDispatchKey(c10::DispatchKey::CPU)) << name;
    EXPECT_TRUE(schema->hasComputedKernelForDispatchKey(c10::DispatchKey::Meta)) << name;
  }
}

TEST(Library, DropoutDropsWhatTheReferenceDrops) {
  at::manual_seed(3);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const int64_t count : {1, 15, 64, 1000, 70001}) {
      const at::Tensor x = at::randn({count}, at::kDouble).to(dtype);
      for (const double p : {0.05, 0.5, 1.0}) {
        EXPECT_TRUE(at::equal(dropout(x, {p, 77}), reference::dropout(x, p, 77))) << dtype << " " << count << " " << p;
      }
    }
  }
}

TEST(Library, MagnitudeGradientIsTheReferences) {
  at::manual_seed(4);
  for (const int64_t columns : {1, 63, 64, 200}) {
    const at::Tensor dy = at::randn({37, columns}), z = at::randn({37, columns});
    EXPECT_TRUE(at::allclose(magnitude_gradient(dy, z), reference::magnitude_gradient(dy, z), 1e-5, 1e-5));
  }
}

TEST(Library, DirectedGradientIsTheProductAndTheMagnitudesSums) {
  at::manual_seed(6);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const at::Tensor dy = at::randn({37, 66}, at::kDouble).to(dtype), y = at::randn({37, 66}, at::kDouble).to(dtype);
    const at::Tensor scale = at::rand({66}) + 0.5;
    const auto [dz, sums] = directed_gradient(dy, scale, y);
    EXPECT_TRUE(at::equal(dz, dy * scale.to(dtype)));
    EXPECT_TRUE(at::equal(sums, magnitude_gradient(dy, y)));
    const auto [alone, none] = directed_gradient(dy, scale);
    EXPECT_TRUE(at::equal(alone, dz));
    EXPECT_FALSE(none.defined());
    const at::Tensor rows = at::full({37, 70}, 7.0, dy.options()), place = rows.narrow(1, 2, 66);
    const auto [there, same_sums] = directed_gradient(dy, scale, y, place);
    EXPECT_TRUE(there.is_same(place) && at::equal(place, dz) && at::equal(same_sums, sums));
    EXPECT_TRUE((rows.narrow(1, 0, 2) == 7.0).all().item<bool>() && (rows.narrow(1, 68, 2) == 7.0).all().item<bool>());
  }
}

// What a GPU does, which cannot look at the magnitude without waiting.
TEST(Library, GradientsOfZeroMagnitudesDoNotComeFromTheOutput) {
  at::manual_seed(5);
  const at::Tensor dy = at::randn({9, 6}, at::kDouble), x = at::randn({9, 5}, at::kDouble);
  const at::Tensor weight = at::randn({6, 5}, at::kDouble), shrunk = at::randn({9, 2}, at::kDouble);
  const at::Tensor b = at::randn({6, 2}, at::kDouble);
  const at::Tensor z = x.mm(weight.t()) + shrunk.mm(b.t());
  at::Tensor magnitude = at::rand({6}, at::kDouble) + 0.5, norm = at::rand({6}, at::kDouble) + 0.5;
  magnitude[1] = 0.0;
  magnitude[4] = 0.0;
  norm[4] = 0.0;
  const at::Tensor y = z * at::where(norm > 0, magnitude / norm, 0.0);
  at::Tensor gradient = magnitude_gradient(dy, y) / magnitude;
  zero_magnitude_gradient_(gradient, dy, x, weight, shrunk, b, magnitude, norm);
  const at::Tensor expected = at::where(norm > 0, (dy * z).sum(0) / norm, 0.0);
  EXPECT_TRUE(at::allclose(gradient, expected, 1e-12, 1e-12));
}

TEST(Library, LowRankProductsDropTheirInputThemselves) {
  at::manual_seed(5);
  const at::Tensor x = at::randn({7, 50}), a = at::randn({3, 50}), dshrunk = at::randn({7, 3});
  const Dropout dropped{0.4, 21};
  EXPECT_TRUE(at::equal(low_rank_shrink(x, a, 0.5, dropped), low_rank_shrink(dropout(x, dropped), a, 0.5)));
  EXPECT_TRUE(at::equal(
      low_rank_gradient_a(dshrunk, x, at::kFloat, dropped),
      low_rank_gradient_a(dshrunk, dropout(x, dropped), at::kFloat)));
  EXPECT_FALSE(at::equal(low_rank_shrink(x, a, 0.5, dropped), low_rank_shrink(x, a, 0.5)));
}

} // namespace
} // namespace rora::ops
