#include "cli/cluster_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

std::string WriteText(const std::string& text) {
  const std::string path = TestFolder() + "/cluster_file_test.json";
  std::ofstream(path) << text;
  return path;
}

TEST(ClusterFileTest, WhatWasWrittenIsRead) {
  const std::string path = TestFolder() + "/cluster.json";
  const std::vector<ClusterProcess> processes = {{"expert", "expert-0", 17, "127.0.0.1:1", "", "127.0.0.1:2"},
                                                 {"gateway", "gate\"way", 18, "127.0.0.1:3", "127.0.0.1:4", ""}};
  ASSERT_TRUE(WriteClusterFile(path, processes).ok());
  const absl::StatusOr<std::vector<ClusterProcess>> read = ReadClusterFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), 2u);
  EXPECT_EQ((*read)[0].pid, 17);
  EXPECT_EQ((*read)[0].metrics, "127.0.0.1:2");
  EXPECT_EQ((*read)[1].name, "gate\"way");
  EXPECT_EQ((*read)[1].http, "127.0.0.1:4");
  EXPECT_EQ(*AddressOfRole(*read, "gateway"), "127.0.0.1:3");
  EXPECT_EQ(AddressOfRole(*read, "router").status().code(), absl::StatusCode::kNotFound);
}

TEST(ClusterFileTest, DamagedFilesAreRefused) {
  for (const std::string text : {"", "{", "{}", "[1]", "[\"a\"]", "\xff"}) {
    EXPECT_EQ(ReadClusterFile(WriteText(text)).status().code(), absl::StatusCode::kDataLoss) << text;
  }
  EXPECT_EQ(ReadClusterFile("/nowhere/cluster.json").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadAddressFile(WriteText("[]")).status().code(), absl::StatusCode::kDataLoss);
}

TEST(ClusterFileTest, MissingAddressesAreEmpty) {
  const absl::StatusOr<ClusterProcess> process = ReadAddressFile(WriteText(R"({"name": "x", "pid": "?", "grpc": 5})"));
  ASSERT_TRUE(process.ok());
  EXPECT_EQ(process->name, "x");
  EXPECT_EQ(process->pid, 0);
  EXPECT_EQ(process->grpc, "");
}

}  // namespace
}  // namespace conclave
