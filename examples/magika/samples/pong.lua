local ball = { x = 400, y = 300, dx = 240, dy = 180, radius = 8 }
local paddle = { y = 250, height = 100, speed = 320 }

function love.load()
  love.window.setTitle("pong")
end

function love.update(dt)
  ball.x = ball.x + ball.dx * dt
  ball.y = ball.y + ball.dy * dt
  if ball.y < ball.radius or ball.y > 600 - ball.radius then
    ball.dy = -ball.dy
  end
  if love.keyboard.isDown("up") then
    paddle.y = math.max(0, paddle.y - paddle.speed * dt)
  elseif love.keyboard.isDown("down") then
    paddle.y = math.min(600 - paddle.height, paddle.y + paddle.speed * dt)
  end
end

function love.draw()
  love.graphics.circle("fill", ball.x, ball.y, ball.radius)
  love.graphics.rectangle("fill", 20, paddle.y, 12, paddle.height)
end
