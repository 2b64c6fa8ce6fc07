#pragma once

#include <torch/nn/module.h>

namespace rora::detail {

/// Puts a module into evaluation mode, and back into the mode it was in when this goes, an exception included.
class EvaluationMode {
 public:
  explicit EvaluationMode(torch::nn::Module& module) : module_(module), was_training_(module.is_training()) {
    module_.eval();
  }
  ~EvaluationMode() {
    module_.train(was_training_);
  }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  torch::nn::Module& module_;
  bool was_training_;
};

} // namespace rora::detail
