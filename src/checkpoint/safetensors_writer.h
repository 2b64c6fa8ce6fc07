#pragma once

#include <rora/checkpoint/safetensors.h>

#include "checkpoint/atomic_file.h"

namespace rora::detail {

/// Throws `c10::ValueError` for tensors that cannot be saved, before anything is written.
void check_saveable(const NamedTensors& tensors, const std::map<std::string, std::string>& metadata);

/// Writes the whole content of a safetensors file, without flush or commit.
void write_safetensors(
    AtomicFile& file, const NamedTensors& tensors, const std::map<std::string, std::string>& metadata);

} // namespace rora::detail
