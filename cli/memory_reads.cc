#include "cli/memory_reads.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "moe/base/check.h"
#include "moe/base/quantile.h"

namespace conclave {
namespace {

constexpr int64_t kHugePageBytes = int64_t{2} << 20;
constexpr int64_t kGrainBytes = int64_t{1} << 20;
constexpr int64_t kPieceBytesPerThread = int64_t{32} << 20;

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Several streams at once keep more lines under way than one does, and asking for what lies ahead more still; how many
// and how far is best differs between machines. `begin` and `end` are multiples of a grain.
template <int kStreams, int kAheadBytes>
uint64_t Read(const uint8_t* begin, const uint8_t* end) {
  typedef uint64_t Wide __attribute__((vector_size(16)));
  constexpr int64_t kStreamBytes = kGrainBytes / kStreams, kLineBytes = 64;
  Wide sums[4] = {};
  for (const uint8_t* grain = begin; grain < end; grain += kGrainBytes) {
    for (int64_t i = 0; i < kStreamBytes; i += kLineBytes) {
      for (int stream = 0; stream < kStreams; ++stream) {
        const uint8_t* line = grain + stream * kStreamBytes + i;
        __builtin_prefetch(line + kAheadBytes);
        for (int j = 0; j < 4; ++j) sums[j] ^= reinterpret_cast<const Wide*>(line)[j];
      }
    }
  }
  const Wide sum = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
  return sum[0] ^ sum[1];
}

// 0x3c is 1.5 as e4m3, 0.0117 as bfloat16, about 1 as float16.
void Fill(uint8_t* memory) {
  for (int64_t i = 0; i < kGrainBytes; ++i) memory[i] = static_cast<uint8_t>(0x38 + (i * 2654435761u >> 13) % 6);
}

}  // namespace

const MemoryReads::Reader MemoryReads::kReaders[] = {Read<1, 2048>, Read<4, 1024>, Read<4, 2048>, Read<8, 1024>};

void MemoryReads::Unmap::operator()(uint8_t* memory) const { munmap(memory, 2 * kPoolBytes); }

MemoryReads::MemoryReads(ThreadPool& threads)
    : threads_(threads), piece_bytes_(std::min(kPoolBytes, threads.threads() * kPieceBytesPerThread)) {
  // The kernel aligns what is that large to huge pages itself, or all but the ends lie in some.
  void* memory = mmap(nullptr, 2 * kPoolBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CONCLAVE_CHECK(memory != MAP_FAILED) << "out of memory for " << 2 * kPoolBytes << " bytes";
  madvise(memory, 2 * kPoolBytes, MADV_HUGEPAGE);
  memory_.reset(static_cast<uint8_t*>(memory));
  Fill(memory_.get());
  // By all threads, a huge page each time, as the thread that touches a page first decides on which node it lies.
  threads_.ParallelFor(2 * kPoolBytes / kGrainBytes, kHugePageBytes / kGrainBytes, [&](int64_t begin, int64_t end) {
    for (int64_t i = std::max<int64_t>(begin, 1); i < end; ++i) {
      std::memcpy(memory_.get() + i * kGrainBytes, memory_.get(), kGrainBytes);
    }
  });
  double best = 0;
  for (const Reader reader : kReaders) {
    std::vector<double> speeds;
    for (int64_t read = 0; read < kPoolBytes || speeds.size() < 3; read += piece_bytes_) {
      speeds.push_back(ReadOn(reader));
    }
    const double speed = MedianOf(std::move(speeds));
    if (speed <= best) continue;
    best = speed;
    reader_ = reader;
  }
}

double MemoryReads::ReadOn(Reader reader) {
  if (offset_ + piece_bytes_ > kPoolBytes) offset_ = 0;
  const uint8_t* piece = memory_.get() + kPoolBytes + offset_;
  offset_ += piece_bytes_;
  std::atomic<uint64_t> sink{0};
  const double begin = Seconds();
  threads_.ParallelFor(piece_bytes_ / kGrainBytes, 1, [&](int64_t first, int64_t last) {
    sink.fetch_xor(reader(piece + first * kGrainBytes, piece + last * kGrainBytes), std::memory_order_relaxed);
  });
  return static_cast<double>(piece_bytes_) / (Seconds() - begin) * 1e-9;
}

double MemoryReads::ReadOn() { return ReadOn(reader_); }

double MemoryReads::Measure(double seconds) {
  const double begin = Seconds();
  std::vector<double> speeds;
  for (int64_t read = 0; read < 3 * kPoolBytes || Seconds() - begin < seconds; read += piece_bytes_) {
    speeds.push_back(ReadOn());
  }
  return MedianOf(std::move(speeds));
}

}  // namespace conclave
