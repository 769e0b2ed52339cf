#include "cli/interrupts.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "moe/base/check.h"

namespace conclave {
namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

Interrupts::Interrupts() {
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal_descriptor_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  end_descriptor_ = eventfd(0, EFD_CLOEXEC);
  CONCLAVE_CHECK(signal_descriptor_ >= 0 && end_descriptor_ >= 0);
  thread_ = std::thread([this] { Watch(); });
}

Interrupts::~Interrupts() {
  const uint64_t one = 1;
  CONCLAVE_CHECK(write(end_descriptor_, &one, sizeof(one)) == sizeof(one));
  thread_.join();
  close(signal_descriptor_);
  close(end_descriptor_);
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void Interrupts::During(std::function<void()> on_interrupt, const std::function<void()>& work) {
  {
    absl::MutexLock lock(&mutex_);
    on_interrupt_ = std::move(on_interrupt);
  }
  work();
  absl::MutexLock lock(&mutex_);
  on_interrupt_ = nullptr;
}

void Interrupts::Watch() {
  pollfd wanted[] = {{signal_descriptor_, POLLIN, 0}, {end_descriptor_, POLLIN, 0}};
  for (;;) {
    if (poll(wanted, 2, -1) < 0 && errno != EINTR) return;
    if ((wanted[1].revents & POLLIN) != 0) return;
    signalfd_siginfo signal{};
    if (read(signal_descriptor_, &signal, sizeof(signal)) != sizeof(signal)) continue;
    absl::MutexLock lock(&mutex_);
    if (on_interrupt_) on_interrupt_();
  }
}

}  // namespace conclave
