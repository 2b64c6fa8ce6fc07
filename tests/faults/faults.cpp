// A library to be preloaded: it counts the system calls that write to or list one folder, and lets one of them fail.
//
// RORA_FAULT_FOLDER  the folder, as an absolute path
// RORA_FAULT_AT      which call fails, from 1; 0 for none
// RORA_FAULT_ERRNO   the error that it gives, or 0: the process is killed there instead
// RORA_FAULT_COUNT   a file that the number of calls is written to at the end

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

long number(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::atol(text) : 0;
}

const std::string& folder() {
  static const std::string path = std::getenv("RORA_FAULT_FOLDER") != nullptr ? std::getenv("RORA_FAULT_FOLDER") : "";
  return path;
}

std::atomic<long> calls{0};
std::array<std::atomic<bool>, 4096> watched{};

struct Report {
  ~Report() {
    if (const char* path = std::getenv("RORA_FAULT_COUNT")) {
      if (std::FILE* file = std::fopen(path, "w")) {
        std::fprintf(file, "%ld\n", calls.load());
        std::fclose(file);
      }
    }
  }
} report;

/// Whether this call is the one that fails.
bool fails() {
  static const long at = number("RORA_FAULT_AT");
  static const long error = number("RORA_FAULT_ERRNO");
  if (++calls != at) {
    return false;
  }
  if (error == 0) {
    ::raise(SIGKILL);
  }
  errno = static_cast<int>(error);
  return true;
}

bool is_watched(const char* path) {
  const std::string& prefix = folder();
  return !prefix.empty() && path != nullptr && std::string(path).compare(0, prefix.size(), prefix) == 0;
}

bool is_watched(int descriptor) {
  return descriptor >= 0 && descriptor < static_cast<int>(watched.size()) && watched[descriptor];
}

bool is_watched(int at, const char* path) {
  return is_watched(path) || (path != nullptr && path[0] != '/' && is_watched(at));
}

int watch(int descriptor, bool value) {
  if (descriptor >= 0 && descriptor < static_cast<int>(watched.size())) {
    watched[descriptor] = value;
  }
  return descriptor;
}

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

/// Reading is not watched, listing is.
bool matters(int flags) {
  return (flags & (O_WRONLY | O_RDWR | O_CREAT | O_DIRECTORY)) != 0;
}

} // namespace

// `open` and its kin take a mode where they may create.
#define RORA_MODE(flags)                        \
  mode_t mode = 0;                              \
  if (((flags) & (O_CREAT | O_TMPFILE)) != 0) { \
    va_list list;                               \
    va_start(list, flags);                      \
    mode = va_arg(list, mode_t);                \
    va_end(list);                               \
  }

extern "C" {

int open(const char* path, int flags, ...) {
  RORA_MODE(flags)
  static auto* const real = next<int(const char*, int, ...)>("open");
  const bool watches = is_watched(path) && matters(flags);
  return watches && fails() ? -1 : watch(real(path, flags, mode), watches);
}

int open64(const char* path, int flags, ...) {
  RORA_MODE(flags)
  return open(path, flags, mode);
}

int openat(int at, const char* path, int flags, ...) {
  RORA_MODE(flags)
  static auto* const real = next<int(int, const char*, int, ...)>("openat");
  const bool watches = is_watched(at, path) && matters(flags);
  return watches && fails() ? -1 : watch(real(at, path, flags, mode), watches);
}

int openat64(int at, const char* path, int flags, ...) {
  RORA_MODE(flags)
  return openat(at, path, flags, mode);
}

int close(int descriptor) {
  static auto* const real = next<int(int)>("close");
  watch(descriptor, false);
  return real(descriptor);
}

ssize_t write(int descriptor, const void* data, size_t size) {
  static auto* const real = next<ssize_t(int, const void*, size_t)>("write");
  return is_watched(descriptor) && fails() ? -1 : real(descriptor, data, size);
}

int fsync(int descriptor) {
  static auto* const real = next<int(int)>("fsync");
  return is_watched(descriptor) && fails() ? -1 : real(descriptor);
}

int ftruncate(int descriptor, off_t size) noexcept {
  static auto* const real = next<int(int, off_t)>("ftruncate");
  return is_watched(descriptor) && fails() ? -1 : real(descriptor, size);
}

int rename(const char* from, const char* to) noexcept {
  static auto* const real = next<int(const char*, const char*)>("rename");
  return is_watched(to) && fails() ? -1 : real(from, to);
}

int renameat2(int from_at, const char* from, int to_at, const char* to, unsigned flags) noexcept {
  static auto* const real = next<int(int, const char*, int, const char*, unsigned)>("renameat2");
  return is_watched(to) && fails() ? -1 : real(from_at, from, to_at, to, flags);
}

int mkdir(const char* path, mode_t mode) noexcept {
  static auto* const real = next<int(const char*, mode_t)>("mkdir");
  return is_watched(path) && fails() ? -1 : real(path, mode);
}

int unlink(const char* path) noexcept {
  static auto* const real = next<int(const char*)>("unlink");
  return is_watched(path) && fails() ? -1 : real(path);
}

int unlinkat(int at, const char* path, int flags) noexcept {
  static auto* const real = next<int(int, const char*, int)>("unlinkat");
  return is_watched(at, path) && fails() ? -1 : real(at, path, flags);
}

DIR* opendir(const char* path) {
  static auto* const real = next<DIR*(const char*)>("opendir");
  return is_watched(path) && fails() ? nullptr : real(path);
}

} // extern "C"
