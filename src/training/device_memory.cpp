#include <rora/training/device_memory.h>

#include <c10/core/CachingDeviceAllocator.h>

#include <sys/resource.h>

#include <fstream>

namespace rora {
namespace {

c10::DeviceIndex index_of(const at::Device& device) {
  return device.has_index() ? device.index() : c10::DeviceIndex{0};
}

} // namespace

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
  return allocator->getDeviceStats(index_of(device)).allocated_bytes[kAll].peak / (int64_t{1} << 20);
}

void reset_peak_memory(const at::Device& device) {
  std::ofstream("/proc/self/clear_refs") << "5"; // of all that it may ask for, the peak alone
  if (device.is_cuda()) {
    auto* allocator = c10::getDeviceAllocator(device.type());
    if (allocator->initialized()) {
      allocator->resetPeakStats(index_of(device));
    }
  }
}

} // namespace rora
