#include "moe/checkpoint/sigbus_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>

namespace conclave::sigbus_guard {
namespace {

// Lock-free, because the handler reads it: a slot is in use while `begin` is not null. `end` is written first.
struct Range {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> damaged{false};
};

std::array<Range, kSlots> g_ranges;
std::atomic<int> g_ranges_used{0};  // no slot at or above this has ever been used
uintptr_t g_page_bytes = 4096;
struct sigaction g_previous;

Range* Find(uintptr_t address) {
  const int used = g_ranges_used.load(std::memory_order_acquire);
  for (int slot = 0; slot < used; ++slot) {
    const uintptr_t begin = g_ranges[slot].begin.load(std::memory_order_acquire);
    if (begin != 0 && begin <= address && address < g_ranges[slot].end.load(std::memory_order_relaxed)) {
      return &g_ranges[slot];
    }
  }
  return nullptr;
}

void PassOn(int signal_number, siginfo_t* info, void* context) {
  if ((g_previous.sa_flags & SA_SIGINFO) != 0 && g_previous.sa_sigaction != nullptr) {
    g_previous.sa_sigaction(signal_number, info, context);
  } else if (g_previous.sa_handler != SIG_DFL && g_previous.sa_handler != SIG_IGN) {
    g_previous.sa_handler(signal_number);
  } else {
    // Blocked while we are in here, so that it arrives on return and meets the default action.
    signal(signal_number, SIG_DFL);
    raise(signal_number);
  }
}

// Only async-signal-safe work. The system call is made directly, past any wrapper of a sanitizer's, which would take
// our page for a write to memory that other threads read.
void OnSigbus(int signal_number, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
  Range* range = info->si_code > 0 ? Find(address) : nullptr;  // a code above 0 comes from the kernel, not from kill()
  if (range != nullptr) {
    void* page = reinterpret_cast<void*>(address & ~(g_page_bytes - 1));
    range->damaged.store(true, std::memory_order_release);
    if (syscall(SYS_mmap, page, g_page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != -1) {
      errno = saved_errno;
      return;
    }
  }
  errno = saved_errno;
  PassOn(signal_number, info, context);
}

void InstallHandler() {
  g_page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action = {};
  action.sa_sigaction = OnSigbus;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &g_previous);
}

}  // namespace

int Watch(const std::byte* begin, int64_t bytes) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  static const bool installed = (InstallHandler(), true);
  static_cast<void>(installed);
  for (int slot = 0; slot < kSlots; ++slot) {
    Range& range = g_ranges[slot];
    if (range.begin.load(std::memory_order_relaxed) != 0) continue;
    range.damaged.store(false, std::memory_order_relaxed);
    range.end.store(reinterpret_cast<uintptr_t>(begin) + static_cast<uintptr_t>(bytes), std::memory_order_relaxed);
    range.begin.store(reinterpret_cast<uintptr_t>(begin), std::memory_order_release);
    if (slot >= g_ranges_used.load(std::memory_order_relaxed)) g_ranges_used.store(slot + 1, std::memory_order_release);
    return slot;
  }
  return -1;
}

void Unwatch(int slot) { g_ranges[slot].begin.store(0, std::memory_order_release); }

bool Damaged(int slot) { return g_ranges[slot].damaged.load(std::memory_order_relaxed); }

}  // namespace conclave::sigbus_guard
