#pragma once

#include <rora/data/dataset.h>
#include <rora/model/causal_lm.h>

#include <string>
#include <vector>

namespace rora {

/// Sixteen hexadecimal digits of the configuration and of the names, shapes and bytes of all weights that are not
/// trained: every one is read, as every step reads it anyhow. It tells apart what differs by accident, and is no
/// protection against forgery.
std::string weights_digest(const CausalLM& model);

/// How many examples there are, and the digest of their ids and labels.
std::string examples_digest(const std::vector<Example>& examples);

} // namespace rora
