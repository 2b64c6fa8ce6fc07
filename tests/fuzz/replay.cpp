// Runs a target without libFuzzer: all files given, then for RORA_FUZZ_SECONDS (2) mutations of them that follow from a
// seed, RORA_FUZZ_SEED (1). A case that crashes, or takes over a second or 512 MiB, is left as crash-TARGET in the
// current folder.
//
//     rora_fuzz_TARGET TARGET FILE_OR_FOLDER...

#include "fuzz_case.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <iterator>
#include <random>
#include <vector>

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr double kMaxSeconds = 20.0; // a sanitizer is slow
#else
constexpr double kMaxSeconds = 1.0;
#endif
constexpr int64_t kMaxMemoryKiB = 512 * 1024;
constexpr unsigned kHangSeconds = 60;
constexpr size_t kMaxBytes = size_t{1} << 20;

// What is running, for the signal handler.
std::string current_input;
std::string crash_file;

extern "C" void keep_input(int signal) {
  const int file = open(crash_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || write(file, current_input.data(), current_input.size()) < 0) {
    _exit(1);
  }
  std::signal(signal, SIG_DFL);
  raise(signal);
}

double seconds_used() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

int64_t peak_memory_kib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

/// The first case also loads what all cases share.
void run(const std::string& input, bool is_first) {
  current_input = input;
  const double begin = seconds_used();
  const int64_t memory = peak_memory_kib();
  alarm(kHangSeconds);
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  alarm(0);
  if (!is_first && seconds_used() - begin > kMaxSeconds) {
    rora::fuzz::fail("a case took " + std::to_string(seconds_used() - begin) + " s");
  }
  if (peak_memory_kib() - memory > kMaxMemoryKiB) {
    rora::fuzz::fail("a case took " + std::to_string((peak_memory_kib() - memory) / 1024) + " MiB");
  }
}

std::string read(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<std::string> read_corpus(int count, char** paths) {
  std::vector<std::filesystem::path> files;
  for (int i = 0; i < count; ++i) {
    if (std::filesystem::is_directory(paths[i])) {
      for (const auto& entry : std::filesystem::directory_iterator(paths[i])) {
        files.push_back(entry.path());
      }
    } else {
      files.emplace_back(paths[i]);
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<std::string> corpus;
  for (const auto& file : files) {
    corpus.push_back(read(file));
  }
  return corpus;
}

/// Changes an input as a hostile or unlucky hand would, a few times over.
class Mutator {
 public:
  Mutator(const std::vector<std::string>& corpus, uint64_t seed) : corpus_(corpus), random_(seed) {}

  std::string next() {
    std::string bytes = corpus_[below(corpus_.size())];
    const size_t changes = 1 + below(4);
    for (size_t i = 0; i < changes; ++i) {
      change(bytes);
    }
    bytes.resize(std::min(bytes.size(), kMaxBytes));
    return bytes;
  }

 private:
  size_t below(size_t limit) {
    return static_cast<size_t>(random_() % limit);
  }

  void change(std::string& bytes) {
    // Tokens that lead further into a parser than random bytes do.
    static const std::vector<std::string> kTokens{
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "-1",
        "0",
        "18446744073709551616",
        "1e999",
        "null",
        "\"",
        "true",
        "(?:a+)+",
        "{9}",
        "\\p{L}",
        ".*",
        "\xFF",
        "\xC3\xA9",
        "\n",
        "$",
        "|",
        ")",
        "{%",
        "%}",
        "{{",
        "}}",
        " if ",
        " for x in ",
        "| ",
        "~",
        "range(99999)",
        "{% endfor %}",
        "*"};
    const size_t at = below(bytes.size() + 1);
    const size_t length = std::min(size_t{1} << below(8), bytes.size() - at);
    switch (below(8)) {
      case 0:
        bytes.insert(at, 1, static_cast<char>(random_()));
        break;
      case 1:
        if (length > 0) {
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        }
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(at, bytes.substr(at, length));
        break;
      case 4: {
        const std::string& other = corpus_[below(corpus_.size())];
        const size_t from = below(other.size() + 1);
        bytes.replace(at, length, other.substr(from, size_t{1} << below(10)));
        break;
      }
      case 5:
        bytes.insert(at, std::string(size_t{1} << below(14), length > 0 ? bytes[at] : '['));
        break;
      case 6:
        for (size_t i = 0; i < std::min<size_t>(length, 4); ++i) {
          bytes[at + i] = static_cast<char>(random_());
        }
        break;
      default:
        bytes.insert(at, kTokens[below(kTokens.size())]);
    }
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 random_;
};

double number_of(const char* variable, double otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atof(text);
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s TARGET FILE_OR_FOLDER...\n", argv[0]);
    return 2;
  }
  crash_file = std::string("crash-") + argv[1];
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM}) {
    std::signal(signal, keep_input);
  }
  std::vector<std::string> corpus = read_corpus(argc - 2, argv + 2);
  for (size_t i = 0; i < corpus.size(); ++i) {
    run(corpus[i], i == 0);
  }
  corpus.emplace_back();
  Mutator mutator(corpus, static_cast<uint64_t>(number_of("RORA_FUZZ_SEED", 1)));
  const std::chrono::duration<double> time(number_of("RORA_FUZZ_SECONDS", 2));
  const auto end = std::chrono::steady_clock::now() + time;
  int64_t mutations = 0;
  for (; std::chrono::steady_clock::now() < end; ++mutations) {
    run(mutator.next(), /*is_first=*/false);
  }
  std::printf("%zu files and %lld mutations of them\n", corpus.size() - 1, static_cast<long long>(mutations));
  return 0;
}
