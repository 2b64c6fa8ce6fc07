#include <rora/training/device_memory.h>

#include <c10/core/CachingDeviceAllocator.h>

#include <sys/resource.h>

namespace rora {

int64_t peak_rss_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

std::optional<int64_t> peak_cuda_mib(const at::Device& device) {
  if (!device.is_cuda()) {
    return std::nullopt;
  }
  auto* allocator = c10::getDeviceAllocator(device.type());
  if (!allocator->initialized()) { // no tensor has been there
    return 0;
  }
  constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const auto index = device.has_index() ? device.index() : c10::DeviceIndex{0};
  return allocator->getDeviceStats(index).allocated_bytes[kAll].peak / (int64_t{1} << 20);
}

} // namespace rora
