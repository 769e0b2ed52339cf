#include "moe/daemon/model_name.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(ModelName, IsTheDirectorysOwnNameOrTheReference) {
  EXPECT_EQ(ModelName("/models/demo", "/models/demo"), "demo");
  EXPECT_EQ(ModelName("models/demo//", "models/demo//"), "demo");
  EXPECT_EQ(ModelName("models/other/../demo/.", "models/other/../demo/."), "demo");
  EXPECT_EQ(ModelName("org/name@main", "/cache/models--org--name/snapshots/0123"), "org/name");
  EXPECT_EQ(ModelName(".", "."), "model");
  EXPECT_EQ(ModelName("/", "/"), "model");
}

}  // namespace
}  // namespace conclave
