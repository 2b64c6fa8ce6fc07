#include "model_flags.h"

#include <rora/adapters/peft_folder.h>
#include <rora/error.h>
#include <rora/model/prepacked_weights.h>
#include <rora/ops/busy_machine_guard.h>
#include <rora/ops/prepacked_weight.h>

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <thread>

namespace rora::cli {
namespace {

using Dtype = std::optional<at::ScalarType>;

const std::vector<std::pair<std::string, Dtype>> kDtypes{{"float32", at::kFloat}, {"bfloat16", at::kBFloat16}};

} // namespace

Flag ModelFlags::add_model(Flags& flags) {
  return flags.add("model", model, "The model's Hugging Face folder").required();
}

Flag ModelFlags::add_adapter(Flags& flags) {
  return flags.add("adapter", adapter, "A PEFT folder whose adapter is attached (default: none)").once();
}

Flag ModelFlags::add_dtype(Flags& flags) {
  return flags.choice<Dtype>(
      "dtype", dtype, kDtypes, "Dtype of the model's weights and activations; adapters are float32");
}

Flag ModelFlags::add_dtype_or_stored(Flags& flags) {
  dtype = std::nullopt;
  auto choices = kDtypes;
  choices.emplace_back("auto", std::nullopt);
  return flags.choice<Dtype>("dtype", dtype, choices, "Dtype of the model's weights; auto: as they are stored");
}

Flag ModelFlags::add_device(Flags& flags) {
  return flags.choice<std::string>("device", device, {{"cpu", "cpu"}, {"cuda", "cuda"}}, "Where to compute");
}

Flag ModelFlags::add_threads(Flags& flags) {
  const int64_t processors = std::thread::hardware_concurrency();
  return flags.add("threads", threads, "Threads on the CPU; 0: LibTorch's choice, a thread a core")
      .between(0, std::max<int64_t>(64, 4 * processors));
}

Flag ModelFlags::add_pack_weights(Flags& flags) {
  return flags.add(
      "pack-weights", pack_weights,
      "Keep frozen weights in the layout of the CPU's products too: a bfloat16 step may be up to 2% faster, and the "
      "layers' weights take three times their memory (default: off)");
}

Flag ModelFlags::add_tokenizer(Flags& flags) {
  return flags.choice<TokenizerKind>(
      "tokenizer", tokenizer,
      {{"auto", TokenizerKind::kAuto}, {"model", TokenizerKind::kSentencePiece}, {"json", TokenizerKind::kJson}},
      "Which tokenizer file of the folder: tokenizer.model, tokenizer.json; auto: the first that is there");
}

void ModelFlags::add_loading(Flags& flags) {
  flags.add(
      "no-mmap", no_mmap,
      "Read the weights into memory first, where changes to their files do not matter, instead of mapping them "
      "(default: off)");
  flags.add(
      "infer-widths", infer_widths,
      "Believe the tensors where layers that are all alike have other widths than config.json says (default: off)");
}

void ModelFlags::use_threads() const {
  if (threads > 0) {
    at::set_num_threads(static_cast<int>(threads));
  }
  if (at::get_num_threads() > 1) {
    // Never deleted: libgomp ends the process on the guard's own thread where the system gives it no threads. The
    // pointer stays in memory, though nothing reads it, or the guard would count as a leak.
    [[gnu::used]] static const auto* const guard = new ops::BusyMachineGuard();
  }
}

at::Device ModelFlags::open_device() const {
  if (device == "cuda" && !at::hasCUDA()) {
    throw UsageError("--device cuda: no CUDA device can be used (LibTorch without CUDA, no driver or no GPU)");
  }
  return at::Device(device);
}

void ModelFlags::check_cuda_graph(bool wanted) const {
  if (wanted && device != "cuda") {
    throw UsageError("--cuda-graph needs --device cuda: steps on the CPU have no CUDA graphs");
  }
}

LoadModelOptions ModelFlags::load_options(std::optional<at::ScalarType> in_dtype) const {
  return LoadModelOptions().dtype(in_dtype).mapped(!no_mmap).infer_widths(infer_widths);
}

DecoderOptions ModelFlags::read_config() const {
  if (std::filesystem::is_regular_file(model)) { // which `read_model_config` would take for a config.json
    throw FileError(model, "is not a folder");
  }
  return read_model_config(model);
}

CausalLM ModelFlags::load() const {
  use_threads();
  const at::Device target = open_device();
  if (pack_weights && !(target.is_cpu() && dtype && ops::can_prepack_weights(*dtype))) {
    throw UsageError("--pack-weights: weights of this dtype are not packed on this processor");
  }
  CausalLM loaded = load_model(model, load_options(dtype));
  if (target.is_cuda()) {
    loaded->to(target);
  }
  if (adapter) {
    load_adapter(*loaded, *adapter);
  }
  if (pack_weights) {
    rora::prepack_weights(loaded);
  }
  loaded->eval();
  return loaded;
}

std::unique_ptr<Tokenizer> ModelFlags::load_tokenizer() const {
  return rora::load_tokenizer(model, tokenizer);
}

std::string dtype_text(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kHalf:
      return "float16";
    case at::kBFloat16:
      return "bfloat16";
    default:
      return c10::toString(dtype);
  }
}

} // namespace rora::cli
