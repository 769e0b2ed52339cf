// A file mapped for reading that may shrink underneath us. A page that has gone would end the process with SIGBUS;
// here a process-wide handler puts a page of zeros in its place and marks the mapping damaged, so that the
// computation runs on to the point where its owner asks CheckStillWhole() and answers DATA_LOSS.
#ifndef CONCLAVE_MOE_CHECKPOINT_MAPPED_FILE_H_
#define CONCLAVE_MOE_CHECKPOINT_MAPPED_FILE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave {

// Owns the mapping and the descriptor. Thread-safe: Map, Load and Evict may race with each other and with readers.
class MappedFile {
 public:
  // kWhole: every byte of [data(), data() + size()) is readable at once.
  // kOnDemand: addresses are reserved, and bytes are readable only after Map() of their range. Thus a process that
  // serves a slice of a checkpoint maps nothing but that slice, and the kernel's fault-around, which stays within
  // a mapping, cannot bring a neighbour's pages into its resident memory.
  enum class Extent { kWhole, kOnDemand };

  // NOT_FOUND: no such file. INVALID_ARGUMENT: not a regular file. RESOURCE_EXHAUSTED: no address space or more
  // than 4096 files. `path` is opened as given, links followed; see model_file.h for the policy on links.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path, Extent extent);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const std::byte* data() const { return base_; }  // page-aligned; null when size() is 0
  int64_t size() const { return size_; }
  bool Contains(const void* pointer) const;

  // Copies [offset, offset + bytes) through the descriptor, without touching the mapping. OUT_OF_RANGE, DATA_LOSS.
  absl::Status Read(int64_t offset, int64_t bytes, void* out) const;
  // Makes [offset, offset + bytes) readable at data() + offset; the pages come in when touched. Cheap when mapped.
  absl::Status Map(int64_t offset, int64_t bytes) const;
  // Brings the pages of a mapped range into memory now. DATA_LOSS when they are gone from the file.
  absl::Status Load(int64_t offset, int64_t bytes) const;
  // Drops the pages that lie fully inside the range from resident memory; they come back when touched.
  void Evict(int64_t offset, int64_t bytes) const;

  // DATA_LOSS when a reader has met a page that is gone, or when the file has changed its size since Open (the tail
  // of the last page reads as zeros without any signal). One fstat: cheap enough for once a step.
  absl::Status CheckStillWhole() const;

 private:
  MappedFile() = default;
  std::string path_;
  int descriptor_ = -1;
  std::byte* base_ = nullptr;
  int64_t size_ = 0;
  int guard_slot_ = -1;  // in the signal handler's table
  mutable std::mutex mutex_;
  mutable std::map<int64_t, int64_t> mapped_;  // guarded by mutex_: begin -> end in bytes, whole pages, disjoint
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_MAPPED_FILE_H_
