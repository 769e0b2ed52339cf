#include "moe/checkpoint/mapped_file.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/checkpoint/test_files.h"

namespace conclave {
namespace {

using testing::HasSubstr;

constexpr int64_t kPage = 4096;

class MappedFileTest : public testing::Test {
 protected:
  std::string Path(int64_t bytes) {
    const std::string path = test_files::MakeDirectory("mapped") + "/file";
    std::string text(static_cast<size_t>(bytes), '\0');
    for (int64_t i = 0; i < bytes; ++i) text[i] = Byte(i);
    test_files::Write(path, text);
    return path;
  }
  static char Byte(int64_t i) { return static_cast<char>(1 + i % 251); }
  static void ExpectBytes(const MappedFile& file, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ASSERT_EQ(static_cast<char>(file.data()[i]), Byte(i)) << i;
  }
};

TEST_F(MappedFileTest, ReadsAWholeFile) {
  auto file = MappedFile::Open(Path(3 * kPage + 17), MappedFile::Extent::kWhole);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->size(), 3 * kPage + 17);
  ExpectBytes(**file, 0, (*file)->size());
  EXPECT_TRUE((*file)->CheckStillWhole().ok());
}

TEST_F(MappedFileTest, AHugePageOfTheFileCanBeOneOfTheProcess) {
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  for (const int64_t size : {kPage - 1, int64_t{kHugePage}, int64_t{kHugePage} + 3 * kPage + 17}) {
    auto file = MappedFile::Open(Path(size), MappedFile::Extent::kWhole);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*file)->data()) % kHugePage, 0u) << size;
    ExpectBytes(**file, 0, size);
  }
}

TEST_F(MappedFileTest, MapsRangesInAnyOrder) {
  const int64_t size = 64 * kPage + 5;
  auto file = MappedFile::Open(Path(size), MappedFile::Extent::kOnDemand);
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<std::pair<int64_t, int64_t>> ranges = {
      {10 * kPage + 3, 20}, {12 * kPage, kPage}, {11 * kPage, 1},         {9 * kPage, 6 * kPage}, {size - 1, 1}, {0, 1},
      {30 * kPage, 1},      {32 * kPage, 1},     {29 * kPage, 5 * kPage}, {31 * kPage, 0},        {5, 3 * kPage}};
  for (const auto& [offset, bytes] : ranges) {
    ASSERT_TRUE((*file)->Map(offset, bytes).ok());
    ExpectBytes(**file, offset, offset + bytes);
  }
  ASSERT_TRUE((*file)->Map(0, size).ok());
  ExpectBytes(**file, 0, size);
}

TEST_F(MappedFileTest, OnDemandMapsNothingElse) {
  auto file = MappedFile::Open(Path(64 * kPage), MappedFile::Extent::kOnDemand);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->Map(8 * kPage, kPage).ok());
  std::string maps = test_files::ReadAll("/proc/self/maps");
  int64_t mapped = 0;
  for (size_t at = 0, end; (end = maps.find('\n', at)) != std::string::npos; at = end + 1) {
    const std::string line = maps.substr(at, end - at);
    if (line.find((*file)->path()) == std::string::npos) continue;
    unsigned long begin = 0, stop = 0;
    ASSERT_EQ(sscanf(line.c_str(), "%lx-%lx", &begin, &stop), 2);
    mapped += static_cast<int64_t>(stop - begin);
  }
  EXPECT_EQ(mapped, kPage);
}

TEST_F(MappedFileTest, EvictsAndComesBack) {
  const int64_t size = int64_t{16} << 20;
  auto file = MappedFile::Open(Path(size), MappedFile::Extent::kOnDemand);
  ASSERT_TRUE(file.ok());
  const int64_t before = test_files::ResidentFileBytes();
  ASSERT_TRUE((*file)->Load(0, size).ok());
  EXPECT_GE(test_files::ResidentFileBytes(), before + size - (1 << 20));
  (*file)->Evict(0, size);
  EXPECT_LE(test_files::ResidentFileBytes(), before + (1 << 20));
  ExpectBytes(**file, 0, size);
}

TEST_F(MappedFileTest, TruncationIsDataLossNotDeath) {
  const int64_t size = 8 * kPage;
  auto file = MappedFile::Open(Path(size), MappedFile::Extent::kWhole);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate((*file)->path().c_str(), 2 * kPage), 0);
  int64_t zeros = 0;
  for (int64_t i = 0; i < size; ++i) zeros += static_cast<char>((*file)->data()[i]) == 0;
  EXPECT_EQ(zeros, 6 * kPage);
  // Even when the file is as long as before, its bytes were lost on the way.
  ASSERT_EQ(truncate((*file)->path().c_str(), size), 0);
  const absl::Status status = (*file)->CheckStillWhole();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr((*file)->path()));
}

TEST_F(MappedFileTest, TruncationWithinAPageIsNoticedWithoutASignal) {
  auto file = MappedFile::Open(Path(2 * kPage), MappedFile::Extent::kWhole);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate((*file)->path().c_str(), 2 * kPage - 10), 0);
  EXPECT_EQ(static_cast<char>((*file)->data()[2 * kPage - 1]), 0);  // silently zero
  EXPECT_EQ((*file)->CheckStillWhole().code(), absl::StatusCode::kDataLoss);
}

TEST_F(MappedFileTest, LoadOfATruncatedFileIsDataLoss) {
  auto file = MappedFile::Open(Path(8 * kPage), MappedFile::Extent::kWhole);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate((*file)->path().c_str(), kPage), 0);
  EXPECT_EQ((*file)->Load(0, 8 * kPage).code(), absl::StatusCode::kDataLoss);
  char bytes[4];
  EXPECT_EQ((*file)->Read(4 * kPage, 4, bytes).code(), absl::StatusCode::kDataLoss);
}

TEST_F(MappedFileTest, DamageIsThatOfOneFile) {
  auto damaged = MappedFile::Open(Path(4 * kPage), MappedFile::Extent::kWhole);
  const std::string other_path = test_files::MakeDirectory("other") + "/file";
  test_files::Write(other_path, std::string(kPage, 'x'));
  auto whole = MappedFile::Open(other_path, MappedFile::Extent::kWhole);
  ASSERT_TRUE(damaged.ok() && whole.ok());
  ASSERT_EQ(truncate((*damaged)->path().c_str(), 0), 0);
  EXPECT_EQ(static_cast<char>((*damaged)->data()[0]), 0);
  EXPECT_FALSE((*damaged)->CheckStillWhole().ok());
  EXPECT_TRUE((*whole)->CheckStillWhole().ok());
  // A later mapping in the same slot starts undamaged.
  damaged->reset();
  auto next = MappedFile::Open(other_path, MappedFile::Extent::kWhole);
  ASSERT_TRUE(next.ok());
  EXPECT_TRUE((*next)->CheckStillWhole().ok());
}

TEST_F(MappedFileTest, ManyThreadsMeetTheSameDamage) {
  const int64_t size = 256 * kPage;
  auto file = MappedFile::Open(Path(size), MappedFile::Extent::kWhole);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate((*file)->path().c_str(), 0), 0);
  std::vector<int64_t> sums(4, 0);
  std::vector<std::thread> threads;
  for (int64_t& sum : sums) {
    threads.emplace_back([&] {
      for (int64_t i = 0; i < size; i += 64) sum += static_cast<int64_t>((*file)->data()[i]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sums, std::vector<int64_t>(4, 0));
  EXPECT_EQ((*file)->CheckStillWhole().code(), absl::StatusCode::kDataLoss);
}

TEST_F(MappedFileTest, ForeignBusErrorsStillKill) {
  const std::string path = Path(2 * kPage);
  auto ours = MappedFile::Open(path, MappedFile::Extent::kWhole);  // installs the handler
  ASSERT_TRUE(ours.ok());
  EXPECT_EXIT(
      {
        FILE* file = fopen(path.c_str(), "rb");
        void* foreign = mmap(nullptr, 2 * kPage, PROT_READ, MAP_PRIVATE, fileno(file), 0);
        if (truncate(path.c_str(), 0) != 0) _exit(3);
        static_cast<void>(static_cast<const volatile char*>(foreign)[kPage]);
        _exit(0);
      },
      [](int status) {  // a sanitizer's own handler, which ours passes on to, exits with 1 or 66
        return WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS
                                   : (WEXITSTATUS(status) == 1 || WEXITSTATUS(status) == 66);
      },
      "");
}

TEST_F(MappedFileTest, RefusesWhatIsNotAFile) {
  const std::string directory = test_files::MakeDirectory("not_a_file");
  EXPECT_EQ(MappedFile::Open(directory + "/absent", MappedFile::Extent::kWhole).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::Open(directory, MappedFile::Extent::kWhole).status().code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(mkfifo((directory + "/pipe").c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::Open(directory + "/pipe", MappedFile::Extent::kWhole).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(MappedFileTest, EmptyFilesHaveNoData) {
  auto file = MappedFile::Open(Path(0), MappedFile::Extent::kWhole);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->size(), 0);
  EXPECT_TRUE((*file)->Map(0, 0).ok());
  EXPECT_TRUE((*file)->CheckStillWhole().ok());
}

}  // namespace
}  // namespace conclave
