#pragma once

#include <rora/core/rora_linear.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

namespace rora::testing {

inline RoRALinearOptions small() {
  return RoRALinearOptions(6, 4).rank(2).alpha(3).bias(true);
}

/// Numbers in all that an adapter trains, so that it does something.
template <class Module>
Module trained(Module module) {
  at::NoGradGuard no_grad;
  for (const auto& item : module->named_parameters()) {
    if (item.key().find("lora_") != std::string::npos) {
      item.value().add_(0.3 * at::rand_like(item.value()));
    }
  }
  return module;
}

class ModulesTest : public ::testing::Test {
 protected:
  ModulesTest() {
    at::manual_seed(21);
    x = at::randn({5, 6});
  }
  at::Tensor x;
};

} // namespace rora::testing
