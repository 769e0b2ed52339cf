#include "moe/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/checkpoint/sigbus_guard.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14; Debian 12's libc has it, older ones do not
#endif

namespace conclave {
namespace {

int64_t PageBytes() {
  static const int64_t bytes = sysconf(_SC_PAGESIZE);
  return bytes;
}
int64_t PageFloor(int64_t offset) { return offset / PageBytes() * PageBytes(); }
int64_t PageCeiling(int64_t offset) { return (offset + PageBytes() - 1) / PageBytes() * PageBytes(); }

constexpr int64_t kHugePageBytes = int64_t{2} << 20;

// Reserves `bytes` of address space at a multiple of a huge page, so that a huge page of the file can be one of ours.
void* ReserveAligned(int64_t bytes) {
  const int64_t reserved = PageCeiling(bytes) + kHugePageBytes;
  void* start =
      mmap(nullptr, static_cast<size_t>(reserved), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return MAP_FAILED;
  const auto address = reinterpret_cast<uintptr_t>(start);
  const uintptr_t aligned = (address + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  auto* base = static_cast<std::byte*>(start) + (aligned - address);
  if (aligned > address) munmap(start, aligned - address);
  munmap(base + PageCeiling(bytes), static_cast<size_t>(kHugePageBytes - (aligned - address)));
  return base;
}

absl::Status OpenError(const std::string& path, int error) {
  const std::string text = absl::StrCat(path, ": ", std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(text);
  if (error == EMFILE || error == ENFILE) return absl::ResourceExhaustedError(absl::StrCat(text, "; raise ulimit -n"));
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(text);
  return absl::InvalidArgumentError(text);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path, Extent extent) {
  std::unique_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  // O_NONBLOCK keeps a named pipe from hanging us; it means nothing for regular files.
  file->descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->descriptor_ < 0) return OpenError(path, errno);
  struct stat status;
  if (fstat(file->descriptor_, &status) != 0) return OpenError(path, errno);
  if (!S_ISREG(status.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  file->size_ = status.st_size;
  if (file->size_ == 0) return file;
  void* reserved = ReserveAligned(file->size_);
  if (reserved == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": no address space for ", file->size_, " bytes; raise ulimit -v"));
  }
  file->base_ = static_cast<std::byte*>(reserved);
  file->guard_slot_ = sigbus_guard::Watch(file->base_, PageCeiling(file->size_));
  if (file->guard_slot_ < 0) {
    return absl::ResourceExhaustedError(absl::StrCat(path, ": more than ", sigbus_guard::kSlots, " mapped files"));
  }
  if (extent == Extent::kWhole) {
    if (absl::Status status = file->Map(0, file->size_); !status.ok()) return status;
  }
  return file;
}

MappedFile::~MappedFile() {
  if (guard_slot_ >= 0) sigbus_guard::Unwatch(guard_slot_);
  if (base_ != nullptr) munmap(base_, static_cast<size_t>(size_));
  if (descriptor_ >= 0) close(descriptor_);
}

bool MappedFile::Contains(const void* pointer) const {
  const auto* byte = static_cast<const std::byte*>(pointer);
  return base_ != nullptr && byte >= base_ && byte < base_ + size_;
}

absl::Status MappedFile::Read(int64_t offset, int64_t bytes, void* out) const {
  if (offset < 0 || bytes < 0 || offset > size_ || bytes > size_ - offset) {
    return absl::OutOfRangeError(absl::StrCat(path_, ": bytes ", offset, "+", bytes, " of ", size_));
  }
  auto* to = static_cast<std::byte*>(out);
  while (bytes > 0) {
    const ssize_t got = pread(descriptor_, to, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return absl::DataLossError(absl::StrCat(path_, ": cannot read at offset ", offset, ": ",
                                              got == 0 ? "the file has become shorter" : std::strerror(errno)));
    }
    to += got;
    offset += got;
    bytes -= got;
  }
  return absl::OkStatus();
}

absl::Status MappedFile::Map(int64_t offset, int64_t bytes) const {
  CONCLAVE_CHECK(offset >= 0 && bytes >= 0 && offset <= size_ && bytes <= size_ - offset)
      << path_ << ": " << offset << "+" << bytes << " of " << size_;
  if (bytes == 0) return absl::OkStatus();
  int64_t begin = PageFloor(offset);
  int64_t end = PageCeiling(offset + bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  auto next = mapped_.upper_bound(begin);
  if (next != mapped_.begin() && std::prev(next)->second >= end) return absl::OkStatus();
  // Only the holes are mapped: mapping a range again would drop pages that somebody may just have loaded.
  int64_t at = begin;
  if (next != mapped_.begin() && std::prev(next)->second >= begin) {
    --next;
    begin = next->first;
    at = next->second;
    next = mapped_.erase(next);
  }
  while (at < end) {
    const int64_t hole_end = next != mapped_.end() ? std::min(end, next->first) : end;
    if (at < hole_end && mmap(base_ + at, static_cast<size_t>(hole_end - at), PROT_READ, MAP_PRIVATE | MAP_FIXED,
                              descriptor_, at) == MAP_FAILED) {
      mapped_[begin] = std::max(at, begin);
      return absl::ResourceExhaustedError(absl::StrCat(path_, ": cannot map ", bytes, " bytes at ", offset, ": ",
                                                       std::strerror(errno), "; raise vm.max_map_count"));
    }
    at = hole_end;
    if (next != mapped_.end() && next->first <= end) {
      at = std::max(at, next->second);
      end = std::max(end, next->second);
      next = mapped_.erase(next);
    }
  }
  mapped_[begin] = end;
  // Weights in huge pages are read about a third faster: the page tables of many small ones fit into no cache. Linux
  // maps a file that way where its file system reads large pieces (ext4 since 6.16, XFS, tmpfs), and only pieces that
  // come from the disk after this call; elsewhere nothing changes.
  if (end - begin >= kHugePageBytes) madvise(base_ + begin, static_cast<size_t>(end - begin), MADV_HUGEPAGE);
  return absl::OkStatus();
}

absl::Status MappedFile::Load(int64_t offset, int64_t bytes) const {
  if (absl::Status status = Map(offset, bytes); !status.ok()) return status;
  if (bytes == 0) return absl::OkStatus();
  const int64_t begin = PageFloor(offset);
  const auto length = static_cast<size_t>(PageCeiling(offset + bytes) - begin);
  if (madvise(base_ + begin, length, MADV_POPULATE_READ) == 0) return CheckStillWhole();
  if (errno == EFAULT || errno == EIO) {
    return absl::DataLossError(absl::StrCat(path_, ": bytes ", offset, "+", bytes, " are gone from the file"));
  }
  // An older kernel: ask for them, and let the first reader wait.
  madvise(base_ + begin, length, MADV_WILLNEED);
  return CheckStillWhole();
}

void MappedFile::Evict(int64_t offset, int64_t bytes) const {
  const int64_t begin = PageCeiling(offset);
  // The last page of the file belongs to its last tensor alone, though the tensor may not fill it.
  const int64_t end = offset + bytes == size_ ? PageCeiling(size_) : PageFloor(offset + bytes);
  if (begin < end) madvise(base_ + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
}

absl::Status MappedFile::CheckStillWhole() const {
  if (guard_slot_ >= 0 && sigbus_guard::Damaged(guard_slot_)) {
    return absl::DataLossError(absl::StrCat(path_,
                                            ": a mapped page is gone (the file was truncated, or its disk fails); "
                                            "restore the file and restart"));
  }
  struct stat status;
  if (fstat(descriptor_, &status) != 0) {
    return absl::DataLossError(absl::StrCat(path_, ": ", std::strerror(errno)));
  }
  if (status.st_size == size_) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path_, ": has ", status.st_size, " bytes and had ", size_,
                                          " when it was opened; restore the file and restart"));
}

}  // namespace conclave
