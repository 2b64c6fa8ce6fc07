#include <torch/library.h>

// Every operator of rora. Beside its schema stand, in the file of its name:
// - a reference in ATen's operations (CompositeExplicitAutograd), which any device runs and Meta takes its shapes from;
// - the CPU's kernel, from cpu/;
// - for those that models call, the gradient (CompositeImplicitAutograd over the others).
TORCH_LIBRARY(rora, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor");
  m.def("rms_norm_forward(Tensor x, Tensor weight, float eps) -> (Tensor y, Tensor rstd)");
  m.def(
      "rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor rstd, bool[2] mask, Tensor? dsum=None)"
      " -> (Tensor dx, Tensor dweight)");
  m.def("rms_norm_backward_into(Tensor dy, Tensor x, Tensor weight, Tensor rstd, Tensor? dsum, Tensor(a!) dx) -> ()");
  m.def("add_rms_norm(Tensor x, Tensor added, Tensor weight, float eps) -> (Tensor sum, Tensor y)");
  m.def(
      "add_rms_norm_forward(Tensor x, Tensor added, Tensor weight, float eps) -> (Tensor sum, Tensor y, Tensor rstd)");
  m.def(
      "rms_norm_shrink_forward(Tensor x, Tensor? added, Tensor weight, float eps, Tensor a, float scale)"
      " -> (Tensor sum, Tensor y, Tensor rstd, Tensor shrunk)");

  m.def("swiglu(Tensor gate, Tensor up) -> Tensor");
  m.def("swiglu_forward(Tensor gate, Tensor up) -> Tensor");
  m.def("swiglu_backward(Tensor dy, Tensor gate, Tensor up) -> (Tensor dgate, Tensor dup)");
  m.def("swiglu_backward_into(Tensor dy, Tensor gate, Tensor up, Tensor(a!) dgate, Tensor(b!) dup) -> ()");

  m.def("rotary_embedding(Tensor x, Tensor cos, Tensor sin) -> Tensor");
  m.def("rotary_embedding_forward(Tensor x, Tensor cos, Tensor sin, bool inverse) -> Tensor");
  m.def("rotary_embedding_forward_into(Tensor x, Tensor cos, Tensor sin, bool inverse, Tensor(a!) y) -> ()");

  m.def("attention(Tensor q, Tensor k, Tensor v, Tensor? sequence=None) -> Tensor");
  m.def("varlen_attention(Tensor q, Tensor k, Tensor v, Tensor boundaries, int longest) -> Tensor");
  m.def(
      "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? sequence, int window=0, "
      "int prefix=0) -> (Tensor out, Tensor normaliser)");
  m.def(
      "attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor normaliser, Tensor? sequence, "
      "int window=0, int prefix=0)"
      " -> (Tensor dq, Tensor dk, Tensor dv)");

  m.def("token_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, int chunk=0) -> Tensor");
  m.def(
      "token_cross_entropy_forward(Tensor hidden, Tensor weight, Tensor targets, int chunk, bool[2] mask)"
      " -> (Tensor sum, Tensor dhidden, Tensor dweight)");
  m.def("cross_entropy_rows_(Tensor(a!) logits, Tensor targets, bool gradient) -> Tensor losses");

  m.def(
      "sum_of_products(Tensor[] a, Tensor[] b, float scale=1., Tensor? column_scale=None, ScalarType? dtype=None)"
      " -> Tensor");
  m.def("sum_of_products_(Tensor(a!) y, Tensor[] a, Tensor[] b, float scale=1., bool accumulate=True) -> Tensor(a!)");

  m.def(
      "low_rank_linear(Tensor x, Tensor weight, Tensor? bias, Tensor a, Tensor b, float scale, float dropout=0.,"
      " int seed=0, Tensor? magnitude=None) -> Tensor");
  m.def("low_rank_shrink(Tensor x, Tensor a, float scale, float p=0., int seed=0) -> Tensor shrunk");
  m.def(
      "low_rank_gradient_b(Tensor dy, Tensor shrunk, Tensor b, float scale, bool[2] mask)"
      " -> (Tensor dshrunk, Tensor db)");
  m.def(
      "low_rank_gradient_b_into(Tensor dy, Tensor shrunk, Tensor b, float scale, bool needs_db,"
      " Tensor(a!) dshrunk) -> Tensor db");
  m.def("low_rank_gradient_a(Tensor dshrunk, Tensor x, ScalarType dtype, float p=0., int seed=0) -> Tensor da");
  m.def("low_rank_gradient_x_(Tensor(a!) dx, Tensor dshrunk, Tensor a, float p, int seed) -> Tensor(a!)");
  m.def("copy_padded_(Tensor(a!)[] to, Tensor[] from) -> ()");
  m.def("magnitude_gradient(Tensor dy, Tensor z) -> Tensor");
  m.def("directed_gradient(Tensor dy, Tensor scale, Tensor? y=None) -> (Tensor dz, Tensor sums)");
  m.def("directed_gradient_into(Tensor dy, Tensor scale, Tensor? y, Tensor(a!) dz) -> Tensor sums");
  m.def(
      "dora_norm_rows(Tensor weight_norm_squared, Tensor product, Tensor b, Tensor gram, float scale) -> Tensor norm");
  m.def(
      "zero_magnitude_gradient_(Tensor(a!) gradient, Tensor dy, Tensor x, Tensor weight, Tensor shrunk, Tensor b,"
      " Tensor magnitude, Tensor norm) -> Tensor(a!)");
  m.def("dropout(Tensor x, float p, int seed) -> Tensor");
}
