#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

namespace rora {

/// The most memory that this process has had, in MiB.
int64_t peak_rss_mib();

/// The most memory of a GPU that this process's tensors have had at once, in MiB; nothing for a device that is none.
std::optional<int64_t> peak_cuda_mib(const at::Device& device);

/// Has both peaks counted anew from what is held now. On some systems the process's cannot be: it then stays.
void reset_peak_memory(const at::Device& device);

} // namespace rora
